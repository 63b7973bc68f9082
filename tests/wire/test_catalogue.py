"""Every SDK generation, sync and async, runs one catalogue of operations (clients/catalogue.py): a test for each.

A client runs its catalogue once, in whichever worker asks first; the others read what it found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import EXAMPLES, GENERATIONS, MODES, RunClient
from .matrix import CELL, Entry, entries

pytestmark = pytest.mark.wire

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def catalogue(run_client: RunClient, once: Callable[[str, Callable[[], str]], str]) -> Callable[[str, str], Found]:
    """What a client's run of the catalogue has found, by operation."""

    def found(generation: str, mode: str) -> Found:
        def run() -> str:
            folder = str(EXAMPLES / "quickstart" / "agent")
            return json.dumps(run_client(generation, mode, "catalogue", folder))

        results = json.loads(once(f"catalogue-{generation}-{mode}", run))
        return {result["operation"]: result for result in results}

    return found


def cases() -> Iterator[Any]:
    for generation in GENERATIONS:
        for mode in MODES:
            for entry in entries():
                marks = [pytest.mark.operation(*entry.shows), pytest.mark.field(*entry.fields)]
                yield pytest.param(generation, mode, entry, id=f"{generation}-{mode}-{entry.title}", marks=marks)


@pytest.mark.parametrize(("generation", "mode", "entry"), list(cases()))
def test_every_generation_can(
    catalogue: Callable[[str, str], Found],
    record_property: Callable[[str, object], None],
    generation: str,
    mode: str,
    entry: Entry,
) -> None:
    """The operation does what it says for this client; or its SDK cannot do it at all, for a reason that is given."""
    result = catalogue(generation, mode)[entry.title]
    record_property(CELL, [entry.title, generation, mode, result["state"], result["ways"]])
    if result["state"] == "n/a":
        assert result["reason"]
        return
    assert result["state"] == "ok", result["reason"]
    assert result["checked"]


def test_the_catalogue_is_read_whole() -> None:
    """No operation stands in the catalogue twice, and none is hidden from the tests by its spelling."""
    titles = [entry.title for entry in entries()]
    assert len(titles) == len(set(titles))
    source = (Path(__file__).parent / "clients" / "catalogue.py").read_text()
    assert len(titles) == source.count("\n@operation(")
