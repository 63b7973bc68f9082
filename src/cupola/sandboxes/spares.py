"""Homes that are nobody's: removed, and their rows after them. May be repeated after a crash at any point."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import structlog

from cupola.drivers.base import Driver
from cupola.errors import CupolaError
from cupola.sandboxes.places import Places
from cupola.snapshots import Snapshot, SnapshotState
from cupola.store import Store
from cupola.store import snapshots as rows

log = structlog.get_logger()


async def remove_spares(store: Store, places: Places, spares: Iterable[Snapshot]) -> None:
    """Removes the homes of rows that are not `ready`, as the store has them now.

    What cannot be removed now, as its driver is away, keeps its row: `unfinished` and the next start try again.
    """
    drivers: dict[str, Driver] = {}
    for spare in spares:
        current = await store.read(partial(_current, spare=spare))
        if current is None or current.state is SnapshotState.READY:
            continue
        drivers = drivers or {place.driver.name: place.driver for place in await places.every()}
        if current.driver not in drivers:
            log.warning("home of an unreachable driver left alone", driver=current.driver, home=current.home)
            continue
        try:
            await drivers[current.driver].delete_home(current.home)
            await store.write(partial(_forget, spare=current))
        except CupolaError as error:
            log.warning("home not removed", driver=current.driver, home=current.home, reason=error.message)


def _current(conn: Any, spare: Snapshot) -> Snapshot | None:
    return rows.get_snapshot(conn, spare.project, spare.id)


def _forget(conn: Any, spare: Snapshot) -> None:
    rows.delete_snapshot(conn, spare.project, spare.id)
