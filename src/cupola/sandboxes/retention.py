"""The pass over what is kept of sandboxes that are gone: what is too old goes, then the oldest until the rest fits.

Runs and their output go together. Directories without a run, which a crash may leave, go too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from cupola.passes import again_and_again
from cupola.sandboxes.kept import KeptOutput
from cupola.sandboxes.lives import forget
from cupola.store import Store
from cupola.store import runs as rows

log = structlog.get_logger()

_BETWEEN_PASSES = 600.0
_AT_ONCE = 200
_DAY = 24 * 3600


class Retention:
    """Looks again and again. `days` and `total_bytes` are the bounds, `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        kept: KeptOutput,
        *,
        days: float,
        total_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._kept = kept
        self._lifetime = days * _DAY
        self._total_bytes = total_bytes
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "kept output", pause=_BETWEEN_PASSES, at_once=True)

    async def once(self) -> None:
        """One pass."""
        await self._forget_old()
        await self._forget_of_no_agent()
        await self._remove_strays()
        await self._fit()

    async def _forget_old(self) -> None:
        until = self._clock() - self._lifetime
        while old := await self._store.read(lambda conn: rows.ended_runs(conn, until, _AT_ONCE)):
            await forget(self._store, self._kept, [run.sandbox for run in old])

    async def _forget_of_no_agent(self) -> None:
        gone = await self._store.read(rows.runs_of_no_agent)
        await forget(self._store, self._kept, [run.sandbox for run in gone])

    async def _remove_strays(self) -> None:
        names = await asyncio.to_thread(self._kept.sandboxes)
        known = await self._store.read(lambda conn: rows.get_runs(conn, names))
        for name in set(names) - known.keys():
            await asyncio.to_thread(self._kept.delete, name)

    async def _fit(self) -> None:
        """The runs that ended first go until the rest fits; what still runs has its own bound."""
        sizes = await asyncio.to_thread(self._sizes)
        excess = sum(sizes.values()) - self._total_bytes
        while excess > 0:
            oldest = await self._store.read(lambda conn: rows.ended_runs(conn, self._clock(), _AT_ONCE))
            if not oldest:
                return
            going = []
            for run in oldest:
                if excess <= 0:
                    break
                going.append(run.sandbox)
                excess -= sizes.get(run.sandbox, 0)
            log.info("kept output is over its bound: the oldest goes", runs=len(going))
            await forget(self._store, self._kept, going)

    def _sizes(self) -> dict[str, int]:
        return {sandbox: self._kept.size(sandbox) for sandbox in self._kept.sandboxes()}
