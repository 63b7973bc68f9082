"""What time it is, for a program that must not believe every jump of the machine's clock.

The machine's clock is set by people and by NTP, by hours at times; a laptop that slept wakes up the next day. Whoever
compares two moments (idle for how long, used for how long, expired since when) would take such a jump for time that
has passed. So the platform reads one `SteadyClock`: unix seconds that go on evenly, and that jump only when `step` is
called, which tells by how much: then, at one moment, everything that was noted in memory is moved along.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP = 2.0
"""Seconds; less is drift, which needs no notice."""


class SteadyClock:
    """Unix seconds. `wall` is the machine's clock, `ticks` counts seconds evenly from anywhere (and not in sleep)."""

    def __init__(self, wall: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self.ticks = ticks
        self._offset = wall() - ticks()
        self._stood_since = ticks()

    def __call__(self) -> float:
        return self._offset + self.ticks()

    def step(self) -> float:
        """Agrees with the machine's clock again; returns the seconds that this was a jump, 0 for mere drift."""
        moved = self._wall() - self()
        self._offset += moved
        if abs(moved) < JUMP:
            return 0.0
        self._stood_since = self.ticks()
        return moved

    def stood(self) -> float:
        """For how many seconds the clock has not jumped, as far as this process can know."""
        return self.ticks() - self._stood_since
