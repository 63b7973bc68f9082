"""Copies of sessions' homes: snapshots, going back to one, and new sessions that begin with one.

Each copy goes into a home that has a row before it has a byte (`snapshots.py`), and one commit gives it to its owner.
So a crash loses nothing and leaves nothing: what has no owner then is removed by `recover`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from cupola.agents import VersionStatus
from cupola.drivers.base import Driver
from cupola.errors import Conflict, DriverUnavailable, NotFound
from cupola.ids import new_guid_hex, new_session_id, new_snapshot_id
from cupola.sandboxes.places import Places
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.spares import remove_spares
from cupola.sessions import Session
from cupola.snapshots import Snapshot, SnapshotState
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as rows

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fork:
    """A new session that is wanted: `id` None makes one up."""

    version: str
    caller: str
    id: str | None = None


class Homes:
    """What is done with homes as a whole. `clock` gives unix seconds."""

    def __init__(
        self, store: Store, places: Places, sandboxes: Sandboxes, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._places = places
        self._sandboxes = sandboxes
        self._occupied = sandboxes.occupied
        self._clock = clock
        self._copying: set[str] = set()

    async def snapshot(
        self, session: Session, *, note: str | None = None, stop: bool = False, force: bool = False
    ) -> Snapshot:
        """Copies the home of a session and keeps the copy.

        With `stop` its sandbox is stopped first and none starts meanwhile, so that no file is half written; `force`
        breaks off what is open. Without, a session that runs is copied as it runs.
        """

        async def work() -> Snapshot:
            current = await self._store.read(partial(session_rows.current_session, session=session))
            driver = await self._driver_of(current.project, current.agent, current.version)
            if stop:
                await self._put_to_rest(current, force)
            making = self._new_row(current, driver, note)
            async with self._copied(driver, current.home, making) as size:
                ready = making.to_ready(size)
                await self._store.write(partial(_keep, session=current, snapshot=ready))
            return ready

        return await self._occupied.run(session.key, "copied for a snapshot", work, holds=stop)

    async def restore(self, session: Session, snapshot: Snapshot, *, force: bool = False) -> Session:
        """Gives a session a copy of a snapshot for its home; its sandbox is stopped first, its old home goes."""

        async def work() -> Session:
            await self._store.read(partial(current_snapshot, snapshot=snapshot))
            driver = await self._driver_named(snapshot.driver)
            await self._put_to_rest(session, force)
            spare = self._new_row(session, driver, None).to_spare()
            async with self._copied(driver, snapshot.home, spare):
                restored = await self._store.write(partial(_switch_home, session=session, spare=spare))
            await remove_spares(self._store, self._places, [spare])  # whose row names the old home now
            return restored

        return await self._occupied.run(session.key, "restored", work, holds=True)

    async def fork(self, source: Session | Snapshot, fork: Fork) -> Session:
        """A new session whose home is a copy of a session's, or of a snapshot. It rests until its first request."""
        now = self._clock()
        session = Session(
            project=source.project,
            agent=source.agent,
            id=fork.id or new_session_id(),
            guid=new_guid_hex(),
            version=fork.version,
            caller=fork.caller,
            home=new_guid_hex(),
            created_at=now,
            last_accessed_at=now,
        ).to_idle(now)

        async def work() -> Session:
            driver = await self._driver_of(source.project, source.agent, fork.version)
            if isinstance(source, Snapshot) and source.driver != driver.name:
                raise Conflict(
                    f"Snapshot '{source.id}' lies with the {source.driver} driver, and version {fork.version} runs "
                    f"with the {driver.name} driver: name a version that can use it."
                )
            await self._store.read(partial(_require_room, session=session))
            home = await self._store.read(partial(_home_of, source=source))
            spare = self._new_row(session, driver, None).to_spare(session.home)
            async with self._copied(driver, home, spare):
                await self._store.write(partial(_begin_fork, session=session, spare=spare))
            return session

        key = source.session_key if isinstance(source, Snapshot) else source.key
        return await self._occupied.run(key, "forked", work)

    async def delete_snapshot(self, snapshot: Snapshot) -> None:
        """Removes a snapshot. May be repeated after a crash."""

        async def work() -> None:
            await self._store.write(partial(_release, snapshot=snapshot))
            await remove_spares(self._store, self._places, [snapshot])

        await self._occupied.run(snapshot.session_key, "relieved of a snapshot", work)

    async def delete_snapshots_of_agent(self, project: str, agent: str) -> None:
        """Removes the snapshots that outlived their sessions: their agent goes now."""
        spares = await self._store.write(partial(rows.release_of_agent, project=project, agent=agent))
        await remove_spares(self._store, self._places, spares)

    def is_at_work_on(self, snapshot: Snapshot) -> bool:
        """Whether its home is being copied, and may find an owner."""
        return snapshot.id in self._copying

    async def remove(self, snapshot: Snapshot) -> None:
        """Removes what was broken off, and the home with it."""
        await remove_spares(self._store, self._places, [snapshot])

    async def recover(self) -> None:
        """After a start: what no session and no snapshot owns is removed."""
        spares = await self._store.read(rows.unfinished_snapshots)
        if spares:
            log.info("removing homes that nobody owns", homes=len(spares))
        await remove_spares(self._store, self._places, spares)

    async def aclose(self) -> None:
        """Breaks off what is being copied, and removes what was copied of it."""
        await self._occupied.aclose()

    @asynccontextmanager
    async def _copied(self, driver: Driver, source: str, row: Snapshot) -> AsyncIterator[int]:
        """Row first, then bytes; yields how many. Unless the body finds an owner for the copy, both go again."""
        self._copying.add(row.id)
        try:
            await self._store.write(partial(rows.put_snapshot, snapshot=row))
            began = self._clock()
            size = await driver.copy_home(source, row.home)
            log.info("home copied", session=row.session, bytes=size, seconds=round(self._clock() - began, 3))
            yield size
        except BaseException:
            # Cancelled too: what the row names in the store by now is nobody's, whether or not the commit came about.
            await asyncio.shield(remove_spares(self._store, self._places, [row]))
            raise
        finally:
            self._copying.discard(row.id)

    def _new_row(self, session: Session, driver: Driver, note: str | None) -> Snapshot:
        return Snapshot(
            project=session.project,
            agent=session.agent,
            session=session.id,
            id=new_snapshot_id(),
            version=session.version,
            caller=session.caller,
            driver=driver.name,
            home=new_guid_hex(),
            created_at=self._clock(),
            note=note,
        )

    async def _put_to_rest(self, session: Session, force: bool) -> None:
        busy = self._sandboxes.what_is_open(session.key)
        if busy is not None and not force:
            raise Conflict(
                f"Session '{session.id}' has {busy}; wait for its end, or ask with force, which breaks it off.",
                code="session_busy",
            )
        await self._sandboxes.put_to_rest(session)

    async def _driver_of(self, project: str, agent: str, version: str) -> Driver:
        """Where the homes of a version's sessions lie."""
        found = await self._store.read(partial(agent_rows.get_version, project=project, agent=agent, version=version))
        if found is None or found.status is not VersionStatus.ACTIVE:
            raise Conflict(f"Version {agent}:{version} is not active (any more).", param="agent_version")
        return (await self._places.keeping(found.definition)).driver

    async def _driver_named(self, name: str) -> Driver:
        for place in await self._places.every():
            if place.driver.name == name:
                return place.driver
        raise DriverUnavailable(f"The {name} driver, with which this home lies, cannot be reached now.")


def _keep(conn: Any, session: Session, snapshot: Snapshot) -> None:
    """Makes a copy a snapshot, unless its session was deleted while it was made."""
    session_rows.current_session(conn, session)
    making = rows.get_snapshot(conn, snapshot.project, snapshot.id)
    if making is None or making.state is not SnapshotState.MAKING:
        raise Conflict(f"Session '{snapshot.session}' was deleted while its home was copied.")
    rows.put_snapshot(conn, snapshot)


def _switch_home(conn: Any, session: Session, spare: Snapshot) -> Session:
    """The copy is the session's home from now on, and the home that it had is nobody's."""
    known = session_rows.current_session(conn, session)
    if sandbox_rows.sandbox_of_session(conn, *session.key) is not None:
        raise Conflict(f"Session '{session.id}' still has a sandbox that could not be stopped; try again later.")
    restored = replace(known, home=spare.home)
    session_rows.put_session(conn, restored)
    rows.put_snapshot(conn, spare.to_spare(known.home))
    return restored


def current_snapshot(conn: Any, snapshot: Snapshot) -> Snapshot:
    """The snapshot as it is now. Raises NotFound when it was deleted, or is not made yet."""
    known = rows.get_snapshot(conn, snapshot.project, snapshot.id)
    if known is None or known.state is not SnapshotState.READY:
        raise NotFound(f"Session '{snapshot.session}' has no snapshot '{snapshot.id}' (any more).", param="snapshot")
    return known


def _home_of(conn: Any, source: Session | Snapshot) -> str:
    """The home to copy, as it is now: a restore may have come between."""
    if isinstance(source, Snapshot):
        return current_snapshot(conn, source).home
    return session_rows.current_session(conn, source).home


def _begin_fork(conn: Any, session: Session, spare: Snapshot) -> None:
    _require_room(conn, session)
    version = agent_rows.get_version(conn, session.project, session.agent, session.version)
    if version is None or version.status is not VersionStatus.ACTIVE:
        raise Conflict(f"Version {session.agent}:{session.version} was deleted while the home was copied.")
    session_rows.put_session(conn, session)
    rows.delete_snapshot(conn, spare.project, spare.id)


def _require_room(conn: Any, session: Session) -> None:
    if session_rows.get_session(conn, *session.key) is not None:
        raise Conflict(
            f"Session '{session.id}' of agent '{session.agent}' exists already; its id must be unique. "
            "Delete it first, or leave the id out to get a new one.",
            param="agent_session_id",
        )


def _release(conn: Any, snapshot: Snapshot) -> None:
    known = rows.get_snapshot(conn, snapshot.project, snapshot.id)
    if known is not None:
        rows.put_snapshot(conn, known.to_spare())
