"""Starting sandboxes that no session has asked for yet.

A container with the adapters' hooks starts without a session and is given one later; any other starts with a session
id minted in advance, which the session that adopts it takes. Each step is saved as in every start, so that what is
broken off can be undone; the row is written only while its version is active.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from cupola.agents import Agent, AgentVersion
from cupola.errors import CupolaError
from cupola.ids import new_session_id
from cupola.sandboxes.hooks import before_snapshot
from cupola.sandboxes.live import LiveSandbox, LiveSandboxes, VersionKey
from cupola.sandboxes.places import Places
from cupola.sandboxes.start import Place, Starter
from cupola.sessions import Sandbox
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows

log = structlog.get_logger()


class WarmStarts:
    """Those under way."""

    def __init__(self, store: Store, starter: Starter, places: Places, live: LiveSandboxes) -> None:
        self._store = store
        self._starter = starter
        self._places = places
        self._live = live
        self._tasks: dict[asyncio.Task[LiveSandbox], VersionKey] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def versions(self) -> set[VersionKey]:
        """Of which versions something is starting."""
        return set(self._tasks.values())

    def of_version(self, version: VersionKey) -> int:
        return sum(key == version for key in self._tasks.values())

    def begin(self, agent: Agent, version: AgentVersion) -> asyncio.Task[LiveSandbox]:
        """One more warm sandbox of `version`. The task raises CupolaError where it does not come up."""
        task = asyncio.create_task(self._start(agent, version))
        self._tasks[task] = version.key
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[LiveSandbox]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever began it has it
        self._live.changed.set()

    async def _start(self, agent: Agent, version: AgentVersion) -> LiveSandbox:
        place = await self._places.of(version.definition)
        prepared = await self._places.prepare(version, place)
        row = self._starter.new_row(version, place, None, "" if version.binds_late else new_session_id())
        if not await self._store.write(lambda conn: _put_if_active(conn, row)):
            raise CupolaError(f"Version {version.agent}:{version.version} is not active any more.")
        try:
            live = await self._starter.start(row, agent, version, place, prepared.source, None)
        except CupolaError:
            self._places.forget(version)
            raise
        if row.is_bound_late:
            await self._make_wait(live, place)
        live.pooled = True
        self._live.add(live)
        log.info("sandbox warm", agent=version.agent, version=version.version, sandbox=row.id)
        return live

    async def _make_wait(self, live: LiveSandbox, place: Place) -> None:
        try:
            await before_snapshot(live.address)
        except BaseException:
            await asyncio.shield(self._starter.undo(live.row, place.driver, "could not be made to wait"))
            raise

    async def break_off_newest(self) -> bool:
        """Gives up the start that has come least far; False where there is none."""
        task = next(reversed(self._tasks), None)
        if task is None:
            return False
        await _end([task])
        return True

    async def break_off(self, version: VersionKey | None = None) -> None:
        """Gives up all starts, or those of one version; what they have made is undone."""
        await _end([task for task, key in self._tasks.items() if version in (None, key)])


async def _end(tasks: list[asyncio.Task[LiveSandbox]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _put_if_active(conn: Any, row: Sandbox) -> bool:
    if not agent_rows.is_active(conn, (row.project, row.agent, row.version)):
        return False
    sandbox_rows.put_sandbox(conn, row)
    return True
