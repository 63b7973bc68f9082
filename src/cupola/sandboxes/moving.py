"""Carries out what `moves.py` decides: a session comes to rest, then one commit gives it its new version."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from cupola.agents import Agent, AgentVersion, VersionStatus
from cupola.errors import Conflict, CupolaError
from cupola.moves import Decision, Step, decide, followed_version
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a session that was to move: as it is now, where it was, and what was decided."""

    session: Session
    origin: str
    decision: Decision


class Moves:
    """Moves sessions. `clock` gives unix seconds, `dice` chooses where the endpoint's rules leave a choice."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        clock: Callable[[], float] = time.time,
        dice: random.Random | None = None,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._clock = clock
        self._dice = dice or random.Random()  # noqa: S311 (weights of traffic, no secret)

    async def move(
        self, session: Session, target: AgentVersion, *, dry_run: bool = False, force: bool = False
    ) -> Moved:
        """Moves a session, or says why not; with `dry_run`, what it would do.

        Raises Conflict when something else is being done with the session, or its sandbox cannot be stopped.
        """
        if dry_run:
            return Moved(session, session.version, await self._decide(session, target, force))
        key = session.key
        return await self._sandboxes.occupied.run(
            key, "moved to another version", lambda: self._move(session, target, force), holds=True
        )

    async def _move(self, session: Session, target: AgentVersion, force: bool) -> Moved:
        session = await self._store.read(partial(session_rows.current_session, session=session))
        decision = await self._decide(session, target, force)
        if decision.step not in (Step.REBIND, Step.STOP_FIRST):
            return Moved(session, session.version, decision)
        await self._sandboxes.put_to_rest(session)
        moved = await self._store.write(partial(_rebind, session=session, target=target, now=self._clock()))
        log.info("session moved", agent=session.agent, session=session.id, origin=session.version, to=target.version)
        return Moved(moved, session.version, decision)

    async def _decide(self, session: Session, target: AgentVersion, force: bool) -> Decision:
        """Nothing may come between the decision and what follows from it: the last thing here is to look."""
        source = await self._store.read(
            partial(agent_rows.get_version, project=session.project, agent=session.agent, version=session.version)
        )
        busy, runs = self._sandboxes.what_is_open(session.key), self._sandboxes.runs(session.key)
        return decide(session, source, target, runs=runs, busy=busy, force=force)

    async def follow(self, agent: Agent, session: Session) -> Session:
        """The session as its next request finds it: moved, if it rests and its endpoint says that sessions follow."""
        if not agent.sessions_follow or self._sandboxes.runs(session.key):
            return session
        versions = await self._store.read(
            partial(agent_rows.newest_versions, project=agent.project, agent=agent.name, include_drafts=True)
        )
        target = followed_version(agent, session, versions, self._dice)
        if target is None:
            return session
        try:
            moved = await self.move(session, target)
        except CupolaError as error:
            # Another request was faster, or something else is being done: the start reads the session anew.
            log.info("session did not follow", session=session.id, to=target.version, reason=error.message)
            return session
        if moved.decision.step is Step.REFUSE:
            log.info("session cannot follow", session=session.id, to=target.version, reason=moved.decision.reason)
        return moved.session


def _rebind(conn: Any, session: Session, target: AgentVersion, now: float) -> Session:
    known = session_rows.current_session(conn, session)
    if sandbox_rows.sandbox_of_session(conn, *session.key) is not None:
        raise Conflict(f"Session '{session.id}' still has a sandbox that could not be stopped; try again later.")
    version = agent_rows.get_version(conn, target.project, target.agent, target.version)
    if version is None or version.status is not VersionStatus.ACTIVE:
        raise Conflict(f"Version {target.agent}:{target.version} was deleted meanwhile.", param="agent_version")
    moved = known.to_version(target.version, now)
    session_rows.put_session(conn, moved)
    return moved
