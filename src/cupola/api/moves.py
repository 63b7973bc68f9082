"""Moving sessions to another version of their agent: beside the wire, below `/cupola/projects/…`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import Agent, AgentVersion
from cupola.api.owned import agent_of, caller_of, session_of
from cupola.api.sessions import show_session
from cupola.errors import Conflict, CupolaError, NotFound
from cupola.identity import Role
from cupola.moves import Decision, Step
from cupola.sandboxes.moving import Moved, Moves
from cupola.secrecy import brief
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as rows
from cupola.store.paging import ALL, Page
from cupola.web.body import read_model, read_object
from cupola.web.reply import json_reply

AT_ONCE = 8
"""Sessions that move side by side: each may wait for its sandbox to stop."""


class Move(BaseModel):
    """Where one session goes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent_version: str
    dry_run: StrictBool = False
    force: StrictBool = False


class MoveMany(BaseModel):
    """Which sessions go, and where: all that are on another version, or only those that are on `from`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: str | None = Field(None, alias="from")
    to: str
    dry_run: StrictBool = False
    force: StrictBool = False


class SessionMoves:
    """Handlers of `sessions/{session}:move` and `sessions:move`. `clock` gives unix seconds."""

    def __init__(self, store: Store, moves: Moves, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._moves = moves
        self._clock = clock

    async def move(self, request: Request) -> Response:
        """One session; a refusal is a 409, unless it was only asked what would happen."""
        agent = await agent_of(request, self._store)
        session = await session_of(request, agent, self._store)
        wanted = read_model(Move, await read_object(request))
        target = await self._version(agent, wanted.agent_version, "agent_version")
        moved = await self._moves.move(session, target, dry_run=wanted.dry_run, force=wanted.force)
        if moved.decision.step is Step.REFUSE and not wanted.dry_run:
            raise Conflict(
                f"Session '{session.id}' is not moved to version {target.version}: {moved.decision.reason}",
                code="session_not_movable",
            )
        shown = show_move(moved, target, dry_run=wanted.dry_run)
        return json_reply({**shown, "session": show_session(moved.session, self._clock())})

    async def move_many(self, request: Request) -> Response:
        """All of the caller's sessions (an operator: all sessions), each with what happened and why not."""
        agent = await agent_of(request, self._store)
        wanted = read_model(MoveMany, await read_object(request))
        target = await self._version(agent, wanted.to, "to")
        if wanted.origin is not None:
            await self._version(agent, wanted.origin, "from")
        turns = asyncio.Semaphore(AT_ONCE)

        async def move(session: Session) -> Moved:
            async with turns:
                return await self._tried(session, target, wanted)

        sessions = await self._sessions(request, agent, wanted)
        shown = [
            show_move(moved, target, dry_run=wanted.dry_run) for moved in await asyncio.gather(*map(move, sessions))
        ]
        return json_reply({"object": "list", "dry_run": wanted.dry_run, "data": shown})

    async def _tried(self, session: Session, target: AgentVersion, wanted: MoveMany) -> Moved:
        """One that cannot be moved now does not keep the others."""
        try:
            return await self._moves.move(session, target, dry_run=wanted.dry_run, force=wanted.force)
        except CupolaError as error:
            return Moved(session, session.version, Decision(Step.REFUSE, error.message))

    async def _sessions(self, request: Request, agent: Agent, wanted: MoveMany) -> Sequence[Session]:
        caller = caller_of(request)
        mine = None if caller.role.covers(Role.OPERATOR) else caller.user
        found = await self._store.read(
            lambda conn: rows.list_sessions(conn, agent.project, agent.name, Page(ALL, "asc"), mine)
        )
        return [
            session
            for session in found.items
            if session.desired is not Desired.DELETED
            and session.version != wanted.to
            and wanted.origin in (None, session.version)
        ]

    async def _version(self, agent: Agent, wanted: str, param: str) -> AgentVersion:
        found = await self._store.read(
            partial(agent_rows.get_version, project=agent.project, agent=agent.name, version=wanted)
        )
        if found is None:
            raise NotFound(f"Agent '{agent.name}' has no version {brief(wanted)}.", param=param)
        return found


_DONE = {Step.NOTHING: "unchanged", Step.REBIND: "moved", Step.STOP_FIRST: "moved", Step.REFUSE: "refused"}
_WOULD_BE = {**_DONE, Step.REBIND: "would_move", Step.STOP_FIRST: "would_move"}


def show_move(moved: Moved, target: AgentVersion, *, dry_run: bool) -> dict[str, Any]:
    return {
        "object": "cupola.session_move",
        "agent_session_id": moved.session.id,
        "from": moved.origin,
        "to": target.version,
        "outcome": (_WOULD_BE if dry_run else _DONE)[moved.decision.step],
        "message": moved.decision.reason,
    }
