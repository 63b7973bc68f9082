"""What was begun and is neither done nor under way: brought to its end while the platform goes on.

`reconcile.recover` does so once, at the start. This pass does it again and again, for what an engine that was away, or
a disk that was full, has broken off meanwhile: a session that seems to come up while nobody is at it, a deletion that
stopped half-way, a version that nobody makes any more, a response that nobody will finish, a home that nobody owns.
Only what several passes in a row have found so is touched: between two steps of what is under way everything looks
unfinished for a moment.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any

import structlog

from cupola.agents import VersionStatus
from cupola.conversations import StoredResponse
from cupola.errors import CupolaError
from cupola.passes import again_and_again
from cupola.sandboxes.homes import Homes
from cupola.sandboxes.live import LiveSandbox
from cupola.sandboxes.lost import LostResponses
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.reconcile import Versions, looks_awake
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as snapshot_rows

log = structlog.get_logger()

_PAUSE = 5.0
PASSES = 3
"""Passes in a row that must find something unfinished; with the pause, 10 to 15 seconds."""
_ENDED = "The agent's sandbox ended while this response was running."
_LET_GO = "The platform could not keep the end of this response, or its caller has left."

Follow = Callable[[LiveSandbox, StoredResponse], None]
"""Follows a background response to its end (`gateway/background`)."""


class Unfinished:
    """Runs the pass again and again. `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        versions: Versions,
        homes: Homes,
        lost: LostResponses,
        follow: Follow,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._versions = versions
        self._homes = homes
        self._lost = lost
        self._follow = follow
        self._clock = clock
        self._before: Counter[Hashable] = Counter()
        self._now: Counter[Hashable] = Counter()

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "what is unfinished", pause=_PAUSE)

    async def once(self) -> None:
        """One pass. What cannot be ended yet is tried again in the next."""
        self._now = Counter()
        for session in await self._store.read(session_rows.live_sessions):
            await self._tried(self._look_at_session(session))
        statuses = [VersionStatus.CREATING, VersionStatus.DELETING]
        for version in await self._store.read(lambda conn: agent_rows.versions_in(conn, statuses)):
            if not self._versions.is_at_work_on(version) and self._is_left("version", *version.key):
                await self._tried(self._versions.resume(version))
        for response in await self._store.read(lambda conn: response_rows.in_progress_responses(conn, None)):
            await self._tried(self._look_at_response(response))
        for snapshot in await self._store.read(snapshot_rows.unfinished_snapshots):
            if not self._homes.is_at_work_on(snapshot) and self._is_left("home", snapshot.project, snapshot.id):
                await self._tried(self._homes.remove(snapshot))
        self._before = self._now

    async def _look_at_session(self, session: Session) -> None:
        if session.desired is Desired.DELETED:
            if not self._sandboxes.is_changing(session.key) and self._is_left("deletion", *session.key):
                log.info("going on with a deletion", session=session.id)
                await self._sandboxes.delete_session(session)
        elif self._sandboxes.runs(session.key) or not looks_awake(session):
            return
        elif self._is_left("session", *session.key):
            log.info("a session that nobody starts sleeps", session=session.id)
            await self._store.write(partial(_put_to_sleep, session=session, now=self._clock()))

    async def _look_at_response(self, response: StoredResponse) -> None:
        key = (response.project, response.agent, response.session or "")
        live = self._sandboxes.live_of(key)
        if live is None:
            if not self._sandboxes.runs(key) and self._is_left("response", response.project, response.id):
                await self._lost.end(response, _ENDED)
        elif response.id in live.background or live.open_requests:
            return
        elif self._is_left("response", response.project, response.id):
            if response.background:
                self._follow(live, response)
            else:
                await self._lost.end(response, _LET_GO)

    def _is_left(self, *thing: Hashable) -> bool:
        self._now[thing] = self._before[thing] + 1
        return self._now[thing] >= PASSES

    async def _tried(self, step: Awaitable[None]) -> None:
        try:
            await step
        except CupolaError as error:
            log.info("not ended yet", code=error.code, reason=error.message)


def _put_to_sleep(conn: Any, session: Session, now: float) -> None:
    """Unless something was done about the session since it was looked at."""
    if session_rows.get_session(conn, *session.key) == session:
        session_rows.put_session(conn, session.to_idle(now))
