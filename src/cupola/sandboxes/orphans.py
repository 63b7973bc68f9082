"""Sandboxes that nobody owns: found by their label, removed after a grace period.

A start that is broken off between the driver and the store, or a driver that was away when a sandbox should have been
stopped, leaves one. The grace keeps this pass from taking what is just being made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from cupola.drivers.base import LABEL_SANDBOX, Found
from cupola.errors import CupolaError
from cupola.sandboxes.places import Places
from cupola.sandboxes.start import Place
from cupola.store import Store
from cupola.store import sandboxes as rows

log = structlog.get_logger()

_MOST_BETWEEN_PASSES = 60.0


class Orphans:
    """Looks again and again. `grace` is in seconds, `clock` counts seconds, from anywhere."""

    def __init__(
        self, store: Store, places: Places, *, grace: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._places = places
        self._grace = grace
        self._clock = clock
        self._first_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        while True:
            await asyncio.sleep(min(_MOST_BETWEEN_PASSES, max(1.0, self._grace / 2)))
            try:
                await self.once()
            except Exception:
                # The edge of a background loop.
                log.exception("a pass over orphans failed")

    async def once(self) -> None:
        """One pass: remembers whom it sees for the first time, removes who has been alone for too long."""
        now = self._clock()
        seen: dict[str, float] = {}
        for place in self._places.found():
            try:
                found = await place.driver.list()
            except CupolaError as error:
                log.info("could not look for orphans", driver=place.driver.name, reason=error.message)
                continue
            owned = {row.id for row in await self._store.read(rows.all_sandboxes)}
            for orphan in found:
                if orphan.labels.get(LABEL_SANDBOX) in owned:
                    continue
                name = f"{place.driver.name}/{orphan.handle.reference}"
                seen[name] = self._first_seen.get(name, now)
                if now - seen[name] >= self._grace:
                    await self._remove(place, orphan)
        self._first_seen = seen

    async def _remove(self, place: Place, orphan: Found) -> None:
        log.warning(
            "removing a sandbox that nobody owns",
            driver=place.driver.name,
            sandbox=orphan.labels.get(LABEL_SANDBOX),
        )
        await place.driver.stop(orphan.handle, 0)
