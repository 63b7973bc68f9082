"""Stopping single sandboxes: one stop however many ask, with its last words kept.

A sandbox is stopped because it is idle, in the way, over its budget, not wanted any more, or dead already (`check`
looks, and buries it). One with a session stays among the live ones until it is gone, so that nobody starts a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from cupola.drivers.base import Life
from cupola.errors import CupolaError
from cupola.sandboxes.live import LiveSandbox, LiveSandboxes, SessionKey
from cupola.sandboxes.start import Starter
from cupola.sandboxes.usage import Usage
from cupola.sessions import Session
from cupola.store import Store
from cupola.store import sessions as session_rows

log = structlog.get_logger()

OnLost = Callable[[Session, str], Awaitable[None]]
"""Told when a session's sandbox has ended, and why: its unfinished responses must end too."""


class Stops:
    """Those under way. `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        live: LiveSandboxes,
        usage: Usage,
        on_lost: OnLost,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._starter = starter
        self._live = live
        self._usage = usage
        self._on_lost = on_lost
        self._clock = clock
        self._tasks: dict[SessionKey, asyncio.Task[None]] = {}
        self._discarding: set[asyncio.Task[None]] = set()

    def __contains__(self, key: SessionKey) -> bool:
        """Whether a sandbox of that session is being stopped."""
        return key in self._tasks

    @property
    def unseen(self) -> int:
        """How many of the sandboxes that are being stopped are not among the live ones any more."""
        return sum(self._live.of_session(key) is None for key in self._tasks)

    async def settled(self, key: SessionKey) -> bool:
        """Returns when no stop of that session is under way, however it ended; whether there was one."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task])
        return task is not None

    async def joined(self, key: SessionKey) -> None:
        """As `settled`, and raises what the stop raises."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.shield(task)

    async def next_one(self) -> bool:
        """Waits until one of the stops under way is over; False where there is none."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            return True
        return False

    async def stop(
        self,
        live: LiveSandbox,
        reason: str,
        *,
        grace: float | None = None,
        last_word: str | None = None,
        ending: CupolaError | None = None,
    ) -> None:
        """Stops a sandbox; its session goes idle and keeps its home. One stop however many ask.

        Who names a grace while it is being stopped shortens that stop to its own. What it has left unfinished then ends
        with `last_word`, or with what `reason` says; `ending` is why requests that are open break off, and forbids
        that they are sent again to the next sandbox.
        """
        key = live.session.key if live.session is not None else (live.row.project, live.row.agent, live.row.id)
        live.ending = live.ending or ending
        task = self._tasks.get(key)
        if task is None:
            live.stopping = True
            last_word = last_word or f"The agent's sandbox was stopped while this response was running ({reason})."
            task = asyncio.create_task(self._stop(live, reason, grace, last_word))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._stop_ended(key))
        elif grace is not None:
            await live.driver.end(live.handle, grace)
        await asyncio.shield(task)

    def _stop_ended(self, key: SessionKey) -> None:
        self._tasks.pop(key, None)
        self._live.changed.set()

    async def _stop(self, live: LiveSandbox, reason: str, grace: float | None, last_word: str) -> None:
        if live.session is None:
            self._live.remove(live)  # no other session may take it; one with a session stays until it is gone
        try:
            await self._usage.count_last(live, in_haste=grace == 0)
            await self._starter.stop(live, reason, grace=grace)
        except CupolaError:
            live.stopping, live.ending = False, None  # the driver is away: the next pass looks at it again
            self._live.add(live)
            raise
        try:
            if live.session is not None:
                idle = live.session.to_accessed(live.last).to_idle(self._clock())
                await self._store.write(lambda conn: put_if_there(conn, idle))
                await self._on_lost(live.session, last_word)
        finally:
            self._live.remove(live)
        log.info("sandbox stopped", agent=live.row.agent, session=live.row.session_id, reason=reason)

    async def discard_warm(self, warm: LiveSandbox, reason: str = "warm sandbox not needed") -> None:
        """Stops a warm sandbox that no session will adopt, and removes its home."""
        await self.stop(warm, reason, grace=0)

    def discard_soon(self, warm: LiveSandbox, reason: str) -> None:
        """The same in the background; where the driver is away, a later pass finds it."""
        if warm.stopping:
            return
        warm.stopping = True
        task = asyncio.create_task(self._discard_logged(warm, reason))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _discard_logged(self, warm: LiveSandbox, reason: str) -> None:
        try:
            await self.discard_warm(warm, reason)
        except CupolaError as error:
            log.warning("could not stop a warm sandbox", sandbox=warm.row.id, reason=error.message)

    async def check(self, live: LiveSandbox) -> bool:
        """Looks whether a sandbox still runs; if not, buries it and returns False."""
        observation = await live.driver.poll(live.handle)
        if observation.life is Life.RUNNING:
            return True
        if not live.stopping:
            await self._bury(live)
        return False

    async def _bury(self, live: LiveSandbox) -> None:
        failure = await self._starter.evidence_of_end(live)
        log.warning(
            "sandbox ended by itself",
            agent=live.row.agent,
            session=live.row.session_id,
            exit_code=failure.exit_code,
            reason=failure.message,
        )
        if live.session is None:
            await self.discard_warm(live)
        else:
            await self.stop(live, "ended by itself", grace=0, last_word=failure.message)

    async def aclose(self) -> None:
        """Waits for those that nobody waits for."""
        await asyncio.gather(*self._discarding, return_exceptions=True)


def put_if_there(conn: Any, session: Session) -> None:
    """Saves a session unless it was deleted, or is about to be, meanwhile."""
    known = session_rows.get_session(conn, *session.key)
    if known is not None and known.desired is not session.desired.DELETED:
        session_rows.put_session(conn, session)
