"""Keeps how long requests took, without making any of them longer.

What was measured waits in memory and is written many at a time, by nobody's request. A crash loses the last second of
it, which is the price; nothing else depends on it. What is kept is bounded in days and in rows per agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from cupola.passes import again_and_again
from cupola.store import Store
from cupola.store import timings as rows
from cupola.timings import Stopwatch, Timing

log = structlog.get_logger()

_PAUSE = 1.0
"""Seconds between two writes of what waits."""
_WRITE_AT = 2_000
"""Timings that are written at once, whether or not it is time: bounds the memory that they take."""
_SWEEP_EVERY = 60
"""Rounds from one sweep to the next."""
_AT_ONCE = 1_000
"""Rows that one change removes: bounds how long other writes wait for it."""
_DAY = 86_400.0


class Timekeeper:
    """Belongs to one event loop. `days` and `most` (rows per agent) bound what is kept; `clock` gives unix seconds."""

    def __init__(self, store: Store, *, days: float, most: int, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._days = days
        self._most = most
        self._clock = clock
        self._waiting: list[Timing] = []
        self._rounds = 0

    def keep(self, timing: Timing) -> None:
        """Takes one; it is on the disk within about a second."""
        self._waiting.append(timing)
        if len(self._waiting) >= _WRITE_AT:
            self.write()

    def write(self) -> None:
        """Hands what waits to the store, which answers questions asked from now on with it."""
        if self._waiting:
            taken, self._waiting = self._waiting, []
            self._store.write_later(partial(rows.put_timings, rows=taken))

    async def recall(self, watch: Stopwatch, project: str, subject: str) -> None:
        """Lets the answer tell how long the request took that made `subject`, if that had asked to know."""
        self.write()
        watch.then = await self._store.read(partial(rows.timing_of_subject, project=project, subject=subject))

    async def run(self) -> None:
        """Until cancelled. A round that fails is logged; the next one tries again."""
        await again_and_again(self._round, "timings", pause=_PAUSE)

    async def _round(self) -> None:
        self._rounds += 1
        self.write()
        if self._rounds % _SWEEP_EVERY == 0:
            await self.sweep()

    async def sweep(self) -> int:
        """Forgets what is too old or too much, and returns how many these were."""
        before, removed = self._clock() - self._days * _DAY, 0
        for project, agent in await self._store.read(rows.agents_that_may_have_timings):
            old = partial(rows.delete_old_timings, project=project, agent=agent, before=before, limit=_AT_ONCE)
            many = partial(rows.delete_timings_beyond, project=project, agent=agent, keep=self._most, limit=_AT_ONCE)
            removed += await self._again(old) + await self._again(many)
        return removed

    async def _again(self, remove: Callable[[Any], int]) -> int:
        """Removes some at a time until there is nothing left to remove."""
        removed = 0
        while some := await self._store.write(remove):
            removed += some
        return removed
