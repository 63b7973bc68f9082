"""What commands print, and with which code they exit (`docs/cli.md`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

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
    prefix = "\x1b[1;31mcupola:\x1b[0m" if sys.stderr.isatty() else "cupola:"
    print(f"{prefix} {sentence}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def say_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str), flush=True)


def say_table(rows: Iterable[tuple[str, str]]) -> None:
    """Name and value, one per line; values are never wrapped, so that they can be copied."""
    pairs = list(rows)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        bold = f"\x1b[1m{value}\x1b[0m" if sys.stdout.isatty() else value
        print(f"  {name:<{width}}  {bold}", flush=True)
