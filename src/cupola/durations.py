"""Durations as people write them: `90s`, `15m`, `24h`, `30d`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(duration: str) -> int | None:
    """How long that is; None for what is no duration, or none at all (`0h`)."""
    match = _DURATION.fullmatch(duration)
    return int(match[1]) * _SECONDS[match[2]] or None if match is not None else None
