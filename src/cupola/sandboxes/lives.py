"""Who keeps what is seen of sandboxes: a row for each life (`runs`), the output (`kept`), and a bell for readers.

It watches `Starter` and `Sandboxes` and decides nothing for them. Rows are queued, not waited for: the queue keeps
their order with the rows that matter to a restart, and what a crash has cut off is closed by `settle`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cupola.agents import Failure
from cupola.drivers.base import Driver, Handle
from cupola.logs import REDACTED
from cupola.runs import Run, StartType
from cupola.sandboxes.kept import KeptOutput
from cupola.sandboxes.live import SessionKey
from cupola.sandboxes.output import Collector
from cupola.sessions import Sandbox
from cupola.store import Store
from cupola.store import runs as rows

_JSON_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+")

AgentKey = tuple[str, str]
"""Project and agent."""


class Bell:
    """Tells readers that there is something new of an agent; what it is, they look up."""

    def __init__(self) -> None:
        self._listening: dict[AgentKey, set[asyncio.Event]] = {}
        self.closed = False

    @contextmanager
    def listening(self, agent: AgentKey) -> Iterator[asyncio.Event]:
        """An event that is set from now on whenever something is new; the reader clears it."""
        event = asyncio.Event()
        self._listening.setdefault(agent, set()).add(event)
        try:
            yield event
        finally:
            self._listening[agent].discard(event)
            if not self._listening[agent]:
                del self._listening[agent]

    def ring(self, agent: AgentKey) -> None:
        for event in self._listening.get(agent, ()):
            event.set()

    def close(self) -> None:
        """The platform stops: readers wake, see that nothing will come, and leave."""
        self.closed = True
        for agent in self._listening:
            self.ring(agent)


@dataclass(slots=True)
class _Followed:
    """A sandbox that is followed, and the earlier ones of its session of which something is kept, oldest first."""

    agent: AgentKey
    earlier: list[str] = field(default_factory=list)


class Lives:
    """See the module. `secret` gives the `IDENTITY_HEADER` of a sandbox, `clock` unix seconds."""

    def __init__(
        self, store: Store, kept: KeptOutput, *, secret: Callable[[str], str], clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._kept = kept
        self._secret = secret
        self._clock = clock
        self._collector = Collector(kept, hide=self._hide, on_kept=self._ring, on_full=self._trim)
        self._followed: dict[str, _Followed] = {}
        self.bell = Bell()

    def began(self, row: Sandbox, start_type: StartType) -> None:
        run = Run(
            sandbox=row.id,
            project=row.project,
            agent=row.agent,
            version=row.version,
            driver=row.driver,
            start_type=start_type,
            began_at=self._clock(),
            session=row.session,
        )
        self._write(row, lambda conn: rows.put_run(conn, run))

    async def follow(self, row: Sandbox, driver: Driver, handle: Handle) -> None:
        """Its output is kept from now on; what an earlier server did not get to is read first."""
        followed = self._followed[row.id] = _Followed((row.project, row.agent))
        if row.session is not None:
            earlier = await self._runs_of((row.project, row.agent, row.session))
            followed.earlier = [run.sandbox for run in earlier if run.sandbox != row.id]
            self._trim(row.id)
        self._collector.follow(row.id, driver, handle)

    def ready(self, row: Sandbox, driver: Driver, handle: Handle) -> None:
        at = self._clock()
        self._collector.look(row.id, driver, handle)
        self._write(row, lambda conn: rows.run_ready(conn, row.id, at))

    def adopted(self, row: Sandbox) -> None:
        """A session has taken a warm sandbox."""
        session = row.session
        assert session is not None
        self._write(row, lambda conn: rows.run_adopted(conn, row.id, session))

    def failed(self, row: Sandbox, failure: Failure) -> None:
        """It did not come up, or ended by itself."""
        self._write(row, lambda conn: rows.run_failed(conn, row.id, failure))

    async def finish(self, row: Sandbox, driver: Driver, handle: Handle) -> None:
        """It has ended and is about to be removed: the rest of its output is kept now."""
        await self._collector.finish(row.id, driver, handle)

    def ended(self, row: Sandbox, reason: str) -> None:
        """It is removed. The first reason counts."""
        at = self._clock()
        self._trim(row.id)
        self._followed.pop(row.id, None)
        self._write(row, lambda conn: rows.run_ended(conn, row.id, at, reason))

    async def settle(self, living: Collection[str]) -> None:
        """Closes the runs of sandboxes that ended while nobody watched: all but those that are `living`."""
        at = self._clock()

        def close(conn: Any) -> None:
            for run in rows.open_runs(conn):
                if run.sandbox not in living:
                    rows.run_ended(conn, run.sandbox, at, "gone when the platform started")

        await self._store.write(close)

    async def forget_session(self, key: SessionKey) -> None:
        """Removes what is kept of a session."""
        await self._forget(await self._runs_of(key))

    async def forget_agent(self, project: str, agent: str) -> None:
        """Removes what is kept of an agent."""
        await self._forget(await self._store.read(lambda conn: rows.runs_of(conn, rows.Which(project, agent))))

    async def aclose(self) -> None:
        """Lets go of what runs; the next server goes on from there."""
        await self._collector.aclose()

    async def _runs_of(self, key: SessionKey) -> list[Run]:
        project, agent, session = key
        return await self._store.read(lambda conn: rows.runs_of(conn, rows.Which(project, agent, session)))

    async def _forget(self, runs: list[Run]) -> None:
        await forget(self._store, self._kept, [run.sandbox for run in runs])

    def _write(self, row: Sandbox, change: Callable[[Any], None]) -> None:
        self._store.write_later(change)
        self.bell.ring((row.project, row.agent))

    def _ring(self, sandbox: str) -> None:
        if (followed := self._followed.get(sandbox)) is not None:
            self.bell.ring(followed.agent)

    def _trim(self, sandbox: str) -> None:
        """Keeps a session within its share, over all its sandboxes."""
        if (followed := self._followed.get(sandbox)) is not None and followed.earlier:
            followed.earlier = self._kept.trim([*followed.earlier, sandbox])[:-1]

    def _hide(self, sandbox: str, text: str) -> str:
        """Without what we have given to the sandbox to sign in with."""
        if f"{sandbox}." in text:
            text = text.replace(self._secret(sandbox), REDACTED)
        return _JSON_WEB_TOKEN.sub(REDACTED, text) if "eyJ" in text else text


async def forget(store: Store, kept: KeptOutput, sandboxes: Collection[str]) -> None:
    """Removes runs and what they wrote; a crash in between leaves files, which the next pass over all finds."""
    if sandboxes:
        await store.write(lambda conn: rows.delete_runs(conn, sandboxes))
        await asyncio.to_thread(_delete, kept, list(sandboxes))


def _delete(kept: KeptOutput, sandboxes: list[str]) -> None:
    for sandbox in sandboxes:
        kept.delete(sandbox)
