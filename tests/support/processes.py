"""Processes of this machine, found by a variable of their environment, whoever started them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil


def marked(variable: str, mark: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The processes that run and carry a mark, each with its environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(variable) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment
