"""What must be true after any kill on fake sandboxes: what clients see, and what the store and the place hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable

from sqlalchemy import Connection

from cupola.agents import VersionStatus
from cupola.drivers.base import LABEL_SANDBOX, LABEL_SESSION, Life
from cupola.sessions import Sandbox
from cupola.snapshots import Snapshot, SnapshotState
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as snapshot_rows
from cupola.store.paging import ALL, Page
from tests.kill.counts import Counts
from tests.kill.invariants import Invariants
from tests.kill.mortal import MortalPlatform
from tests.kill.promises import Promises, Session

AGENTS = ("a1", "a2")
_PATIENCE = 2.0
"""Seconds in which what the fake agents run in the background has ended."""


class InvariantsInProcess(Invariants):
    """See the module."""

    def __init__(self, platform: MortalPlatform, promises: Promises, counts: Counts, dice: random.Random) -> None:
        super().__init__(platform, AGENTS, promises, counts, dice)
        self._platform = platform

    async def settle(self) -> None:
        """The passes of a minute and a half."""
        platform = self._platform.platform
        for _ in range(3):
            await platform.reaper.once()
            await platform.expiry.once()
            await platform.orphans.once()
            await platform.unfinished.once()
            await self._pools_settle()
            self._platform.clock.now += self._platform.settings.orphan_grace / 2 + 1
        await self._starts_settle()
        await self._versions_settle()
        await self._responses_end()

    async def _pools_settle(self) -> None:
        sandboxes = self._platform.platform.sandboxes
        self._platform.platform.warm.reconsider()
        await self._platform.platform.warm.once()
        async with asyncio.timeout(_PATIENCE):
            while len(sandboxes.warm_starts) or any(live.stopping for live in sandboxes.live.warm()):
                await asyncio.sleep(0.002)

    async def _starts_settle(self) -> None:
        """A created session starts when its client has its answer already; a start that was struck ends as failed."""
        sandboxes = self._platform.platform.sandboxes
        keys = [("demo", session.agent, session.id) for session in self._promises.there()]
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while changing := [key for key in keys if sandboxes.is_changing(key)]:
            if asyncio.get_running_loop().time() > deadline:
                self.lost(f"session {changing[0][2]} neither comes up nor gives up")
                return
            await asyncio.sleep(0.002)

    async def _versions_settle(self) -> None:
        for version in await self._platform.store.read(
            lambda conn: agent_rows.versions_in(conn, [VersionStatus.CREATING, VersionStatus.DELETING])
        ):
            settled = await self._platform.platform.versions.settled(version, _PATIENCE)
            if settled is not None and settled.status in (VersionStatus.CREATING, VersionStatus.DELETING):
                self.lost(f"version {version.agent}:{version.version} is {settled.status} for ever")

    async def _responses_end(self) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while unfinished := await self._platform.store.read(
            lambda conn: response_rows.in_progress_responses(conn, None)
        ):
            if lost := [response for response in unfinished if not self._runs(response.session)]:
                self.lost(f"response {lost[0].id} is in progress, and its sandbox is dead")
                return
            if asyncio.get_running_loop().time() > deadline:
                self.lost(f"response {unfinished[0].id} is in progress, and nobody is at it")
                return
            await asyncio.sleep(0.002)

    def _runs(self, session_id: str | None) -> bool:
        return any(
            one.spec.labels[LABEL_SESSION] == session_id
            and one.observation is not None
            and one.observation.life is Life.RUNNING
            for one in self._platform.place.sandboxes.values()
        )

    async def is_starting(self, session: Session) -> bool:
        return self._platform.platform.sandboxes.runs(("demo", session.agent, session.id))

    async def files_of(self, session: Session) -> set[str]:
        key = ("demo", session.agent, session.id)
        row = await self._platform.store.read(lambda conn: session_rows.get_session(conn, *key))
        return set(self._platform.place.homes.get(row.home, {})) if row is not None else set()

    async def look_at_sandboxes(self) -> None:
        engine = self._platform.engine
        self._counts.losses += [f"{self._where}: {twin}" for twin in engine.twins]
        engine.twins.clear()
        rows = {row.id: row for row in await self._platform.store.read(sandbox_rows.all_sandboxes)}
        owned = Counter(one.spec.labels[LABEL_SESSION] for one in engine.sandboxes.values())
        self._counts.kept["sandboxes"] += len(engine.sandboxes)
        for sandbox in engine.sandboxes.values():
            labels = sandbox.spec.labels
            if labels[LABEL_SANDBOX] not in rows:
                self.orphan(f"sandbox {labels[LABEL_SANDBOX]} of session {labels[LABEL_SESSION]} has no row")
        for session_id, count in owned.items():
            if count > 1:
                self.lost(f"session {session_id} has {count} sandboxes")
        for row in rows.values():
            if row.id not in engine.sandboxes:
                self.orphan(f"row {row.id} names a sandbox that is not there")
        await self._look_for_homes(rows.values())

    async def _look_for_homes(self, rows: Iterable[Sandbox]) -> None:
        def sessions(conn: Connection) -> set[str]:
            return {
                row.home
                for agent in AGENTS
                for version in agent_rows.newest_versions(conn, "demo", agent, include_drafts=True)
                for row in session_rows.sessions_of_version(conn, "demo", agent, version.version)
            }

        owned = await self._platform.store.read(sessions)
        snapshots = {snap.home: snap for snap in await self._platform.store.read(_every_snapshot)}
        warm = {row.home for row in rows if row.session is None}
        self._counts.kept["warm sandboxes"] += len(warm)
        homes = self._platform.place.homes
        for home in homes.keys() - owned - warm - snapshots.keys():
            self.orphan(f"home {home} belongs to nobody")
        for home, snap in snapshots.items():
            if snap.state is not SnapshotState.READY:
                self.orphan(f"the {snap.state} home {home} of session {snap.session} is left")
            promised = self._promises.snapshots.get(snap.id)
            if promised is not None and (missing := promised.kept - homes.get(home, {}).keys()):
                self.lost(f"snapshot {snap.id} has lost {len(missing)} of {len(promised.kept)} files")


def _every_snapshot(conn: Connection) -> list[Snapshot]:
    ready = [
        snapshot
        for agent in AGENTS
        for session in session_rows.list_sessions(conn, "demo", agent, Page(ALL, "asc"), None).items
        for snapshot in snapshot_rows.list_snapshots(conn, "demo", agent, session.id, Page(ALL, "asc")).items
    ]
    return [*ready, *(one for one in snapshot_rows.unfinished_snapshots(conn) if one not in ready)]
