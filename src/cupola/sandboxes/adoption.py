"""A new session adopts a warm sandbox: at once, with that sandbox's home, and never two of them.

Only a session that does not exist yet does so, since one that exists has a home of its own already, which may hold
files. The session's row and the sandbox's are written in one transaction; whoever asks for the same new session
meanwhile waits for the same adoption. A sandbox that is bound late is told its session before that: if it refuses, or
if the session has come into being elsewhere, it cannot be given to anybody any more and goes, and the request falls
back to the next one or to a cold start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from cupola.agents import AgentVersion
from cupola.ids import new_guid_hex, new_session_id
from cupola.limits import Owner
from cupola.sandboxes.hooks import HookFailed, after_restore
from cupola.sandboxes.joining import joined
from cupola.sandboxes.live import LiveSandbox, LiveSandboxes, SessionKey
from cupola.sessions import Sandbox, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.timings import SessionStart

log = structlog.get_logger()

Discard = Callable[[LiveSandbox, str], None]
"""Stops a warm sandbox that nobody can have any more, without keeping anybody waiting."""


Seat = Callable[[Owner], AbstractAsyncContextManager[None]]
"""Keeps one of the sessions that may run at once for its block; raises QuotaExceeded when there is none."""


class Adoptions:
    """Those under way. `on_adopted` is told the row of a sandbox that has its session; `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        live: LiveSandboxes,
        seat: Seat,
        discard: Discard,
        on_adopted: Callable[[Sandbox], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._live = live
        self._seat = seat
        self._discard = discard
        self._on_adopted = on_adopted
        self._clock = clock
        self._by_session: dict[SessionKey, asyncio.Task[LiveSandbox | None]] = {}
        self._tasks: set[asyncio.Task[LiveSandbox | None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def adopt(self, version: AgentVersion, caller: str, session_id: str | None) -> LiveSandbox | None:
        """A new session of `caller` in a warm sandbox of `version`; None when there is none that can be had.

        With `session_id` the session gets that id. Who asks for one that is being adopted gets that, whoever it is
        for. Cancelling one who waits does not cancel the adoption.
        """
        key = None if session_id is None else (version.project, version.agent, session_id)
        task = None if key is None else self._by_session.get(key)
        if task is None:
            if not self._live.has_warm(version.key, for_own_id=key is not None):
                return None
            task = self._begin(self._adopt(version, caller, session_id))
            if key is not None:
                self._by_session[key] = task
        return await joined(task, "The adoption of a warm sandbox")

    async def of_session(self, key: SessionKey) -> LiveSandbox | None:
        """What a session is adopting just now, when it has it: its row may be seen before its sandbox is."""
        task = self._by_session.get(key)
        return None if task is None else await joined(task, f"The start of session '{key[2]}'")

    def has(self, key: SessionKey) -> bool:
        """Whether the session adopts something just now."""
        return key in self._by_session

    async def settled(self, key: SessionKey) -> None:
        """Returns when the session adopts nothing any more, however that ended."""
        task = self._by_session.get(key)
        if task is not None:
            await asyncio.wait([task])

    async def break_off(self) -> None:
        """Ends those that are under way; what they have taken goes."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, adopting: Coroutine[Any, Any, LiveSandbox | None]) -> asyncio.Task[LiveSandbox | None]:
        task = asyncio.create_task(adopting)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[LiveSandbox | None]) -> None:
        self._tasks.discard(task)
        for key in [key for key, adopting in self._by_session.items() if adopting is task]:
            del self._by_session[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have waited

    async def _adopt(self, version: AgentVersion, caller: str, session_id: str | None) -> LiveSandbox | None:
        async with self._seat(Owner(version.project, version.agent, caller)):
            return await self._adopt_next(version, caller, session_id)

    async def _adopt_next(self, version: AgentVersion, caller: str, session_id: str | None) -> LiveSandbox | None:
        while (warm := self._live.take_warm(version.key, for_own_id=session_id is not None)) is not None:
            session = self._session(warm.row, caller, session_id)
            self._by_session[session.key] = _this_task()
            try:
                if warm.row.is_bound_late:
                    await after_restore(warm.address, warm.row.id, session.id, session.guid)
                adopted = await self._give(warm, session)
            except HookFailed as error:
                log.warning(
                    "warm sandbox did not take its session",
                    agent=version.agent,
                    version=version.version,
                    sandbox=warm.row.id,
                    reason=error.message,
                )
                self._discard(warm, "did not take its session")
            except BaseException:  # the store refuses, or this is broken off
                if warm.row.is_bound_late:
                    self._discard(warm, "its adoption was broken off")  # it was told a session
                else:
                    self._live.add(warm)
                raise
            else:
                if adopted:
                    return warm
                self._discard(warm, "its session began elsewhere, or its version went")
                return None
        return None

    def _session(self, row: Sandbox, caller: str, session_id: str | None) -> Session:
        now = self._clock()
        return Session(
            project=row.project,
            agent=row.agent,
            id=session_id or row.session_id or new_session_id(),
            guid=row.session_guid or new_guid_hex(),
            version=row.version,
            caller=caller,
            home=row.home,
            created_at=now,
            last_accessed_at=now,
        ).to_ready(now)

    async def _give(self, warm: LiveSandbox, session: Session) -> bool:
        """Makes both one; False where the session exists already, or its version is on its way out."""
        row = warm.row.to_adopted(session)
        if not await self._store.write(lambda conn: _put_if_new(conn, session, row)):
            return False
        warm.row, warm.session, warm.last, warm.counted_at = row, session, session.created_at, session.created_at
        warm.start_type, warm.pooled = SessionStart.WARM, False
        self._live.add(warm)
        self._on_adopted(row)
        log.info("session begun", agent=row.agent, version=row.version, session=session.id, start=warm.start_type.value)
        return True


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _put_if_new(conn: Any, session: Session, row: Sandbox) -> bool:
    """Both rows, or none: see `_give`."""
    if not agent_rows.is_active(conn, (session.project, session.agent, session.version)):
        return False
    if session_rows.get_session(conn, *session.key) is not None:
        return False
    session_rows.put_session(conn, session)
    sandbox_rows.put_sandbox(conn, row)
    return True
