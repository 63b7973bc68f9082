"""Sessions that nobody has used for 30 days end: sandbox, files, conversation bindings, row.

A session is over at the moment of its `expires_at`; the pass comes by later and tidies up. Whoever asks for it by its
id meanwhile finds what he would find afterwards: no such session, so that his request begins a new one with an empty
`$HOME`. One that is in use never expires, however long its one request lasts.

A machine whose clock was set wrongly must not lose everybody's files: nothing is over until the clock has stood for a
while without a jump.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cupola.errors import CupolaError
from cupola.passes import again_and_again
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import Desired, Session, SessionStatus
from cupola.store import Store
from cupola.store import sessions as rows

log = structlog.get_logger()

PAUSE = 60.0
"""Seconds between passes."""

AT_ONCE = 100
"""Sessions that one pass ends at most: a backlog of months must not keep the machine from its work."""

SETTLED = 600.0
"""Seconds without a jump after which the clock is believed. NTP mends a wrong clock within a few minutes of a start."""

_LATE = 60.0
"""Seconds that the pass leaves a session beyond its end: a request that saw it alive a moment ago is served first."""


class Expiry:
    """`clock` gives unix seconds, `stood` for how many seconds that clock has not jumped."""

    def __init__(
        self, store: Store, sandboxes: Sandboxes, clock: Callable[[], float], stood: Callable[[], float]
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._clock = clock
        self._stood = stood

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "expired sessions", pause=PAUSE)

    async def once(self) -> None:
        """One pass: ends those that are over; those in use have been accessed now."""
        if self._stood() < SETTLED:
            return
        due = self._clock() - _LATE
        found = await self._store.read(lambda conn: rows.expired_sessions(conn, due, AT_ONCE))
        in_use = {session.key for session in found} & set(self._sandboxes.keys_with_sandbox())
        if in_use:
            now = self._clock()
            await self._store.write(lambda conn: rows.touch_sessions(conn, dict.fromkeys(in_use, now)))
        for session in found:
            if session.key not in in_use:
                await self._end(session)

    async def current(self, session: Session | None) -> Session | None:
        """The session, unless it is over or being deleted: then it is seen to its end, and there is none."""
        if session is None:
            return None
        if session.desired is Desired.DELETED:
            await self._sandboxes.delete_session(session)
            return None
        if self._stood() < SETTLED or not self._is_over(session, self._clock()):
            return session
        log.info("session expired", agent=session.agent, session=session.id)
        await self._sandboxes.delete_session(session)
        return None

    def _is_over(self, session: Session, now: float) -> bool:
        return session.status(now) is SessionStatus.EXPIRED and not self._sandboxes.has_sandbox(session.key)

    async def _end(self, listed: Session) -> None:
        """Looks again before it deletes: others were ended since the list was made, and this one may have been used."""
        session = await self._store.read(lambda conn: rows.get_session(conn, *listed.key))
        if session is None or not self._is_over(session, self._clock() - _LATE):
            return
        try:
            await self._sandboxes.delete_session(session)
        except CupolaError as error:
            log.warning("could not end an expired session", session=session.id, reason=error.message)
        else:
            log.info("session expired", agent=session.agent, session=session.id)
