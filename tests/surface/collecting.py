"""A plugin of pytest that prints which tests are marked with which operations and fields (coverage.py runs it)."""

from __future__ import annotations

import json

import pytest

from .coverage import MARKS_LINE

KINDS = ("operation", "field")


def pytest_collection_finish(session: pytest.Session) -> None:
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for item in session.items:
        test = item.nodeid.partition("[")[0]
        for kind in KINDS:
            for mark in item.iter_markers(kind):
                for name in mark.args:
                    shown = found[kind].setdefault(name, [])
                    if test not in shown:
                        shown.append(test)
    print(f"\n{MARKS_LINE}{json.dumps(found)}")
