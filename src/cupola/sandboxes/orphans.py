"""Sandboxes that nobody owns: found by their label or by their row, removed after a grace period.

A start that is broken off between the driver and the store leaves one without a row; a driver or a disk that was away
when a sandbox should have been stopped leaves a row, maybe with a sandbox, that nobody is at. The grace keeps this pass
from taking what is just being made.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from cupola.drivers.base import LABEL_SANDBOX, Found
from cupola.errors import CupolaError
from cupola.passes import again_and_again
from cupola.sandboxes.live import LiveSandboxes
from cupola.sandboxes.places import Places
from cupola.sandboxes.start import Place, Starter
from cupola.store import Store
from cupola.store import sandboxes as rows

log = structlog.get_logger()

_MOST_BETWEEN_PASSES = 60.0


class Orphans:
    """Looks again and again. `grace` is in seconds, `clock` counts seconds, from anywhere."""

    def __init__(
        self,
        store: Store,
        places: Places,
        starter: Starter,
        live: LiveSandboxes,
        *,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._places = places
        self._starter = starter
        self._live = live
        self._grace = grace
        self._clock = clock
        self._first_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "orphans", pause=min(_MOST_BETWEEN_PASSES, max(1.0, self._grace / 2)))

    async def once(self) -> None:
        """One pass: remembers whom it sees for the first time, removes who has been alone for too long."""
        now = self._clock()
        seen: dict[str, float] = {}
        for place in self._places.found():
            try:
                await self._look_at(place, now, seen)
            except CupolaError as error:
                log.info("could not look for orphans", driver=place.driver.name, reason=error.message)
        self._first_seen = seen

    async def _look_at(self, place: Place, now: float, seen: dict[str, float]) -> None:
        found = await place.driver.list()
        rows_here = [row for row in await self._store.read(rows.all_sandboxes) if row.driver == place.driver.name]
        owned = {row.id for row in rows_here}
        for orphan in found:
            name = f"{place.driver.name}/{orphan.handle.reference}"
            if orphan.labels.get(LABEL_SANDBOX) not in owned and self._is_due(name, now, seen):
                await self._remove(place, orphan)
        served = {live.row.id for live in self._live}
        for row in rows_here:
            if row.id in served or self._starter.is_at_work_on(row.id):
                continue
            if self._is_due(row.id, now, seen):
                log.warning("removing a sandbox that serves nobody", driver=row.driver, sandbox=row.id)
                await self._starter.undo(row, place.driver, "served nobody")

    def _is_due(self, name: str, now: float, seen: dict[str, float]) -> bool:
        """Whether it has been alone for the grace."""
        seen[name] = self._first_seen.get(name, now)
        return now - seen[name] >= self._grace

    async def _remove(self, place: Place, orphan: Found) -> None:
        log.warning(
            "removing a sandbox that nobody owns",
            driver=place.driver.name,
            sandbox=orphan.labels.get(LABEL_SANDBOX),
        )
        await place.driver.stop(orphan.handle, 0)
