"""What commands print, and with which code they exit (`docs/cli.md`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, TextIO

from cupola.errors import (
    BadRequest,
    Conflict,
    CupolaError,
    DriverUnavailable,
    Forbidden,
    NotFound,
    NotServed,
    PayloadTooLarge,
    QuotaExceeded,
    SetupError,
    Unauthenticated,
)
from cupola.installation import NotRunning


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # the argument parser's own
    SETUP = 3
    NOT_RUNNING = 4
    REFUSED = 5
    INTERRUPTED = 130  # as shells say it


_SETUP = (SetupError, DriverUnavailable)
_REFUSED = (
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    QuotaExceeded,
    PayloadTooLarge,
    NotServed,
)  # fmt: skip - one line per thought


def exit_code(error: CupolaError) -> Exit:
    if isinstance(error, NotRunning):
        return Exit.NOT_RUNNING
    if isinstance(error, _SETUP):
        return Exit.SETUP
    return Exit.REFUSED if isinstance(error, _REFUSED) else Exit.FAILED


def complain(sentence: str) -> None:
    """One sentence on stderr; `up --detach` finds its child's by the prefix."""
    print(f"{colored('cupola:', '1;31', sys.stderr)} {sentence}", file=sys.stderr, flush=True)


def colored(text: str, code: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, on a terminal whose owner wants colours."""
    stream = stream or sys.stdout
    return f"\x1b[{code}m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def say(text: str) -> None:
    print(text, flush=True)


def say_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str), flush=True)


def say_table(rows: Iterable[tuple[str, str]]) -> None:
    """Name and value, one per line; values are never wrapped, so that they can be copied."""
    pairs = list(rows)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"  {name:<{width}}  {colored(value, '1')}", flush=True)


def say_columns(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A line for each row under headings; as wide as its widest cell each column is, and no line is ever wrapped."""
    lines = [headings, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = "   ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        print(text if number else colored(text, "1"), flush=True)


def spoken_age(seconds: float) -> str:
    """How long something takes or is ago, in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def spoken_size(size: int) -> str:
    """Bytes as people read them, by powers of 1024."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{size} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"
