"""The sessions of an agent's endpoint: create, get, list, stop, delete (control-plane.md §2.5).

A caller sees its own sessions; an operator sees all. What serves a session is the business of `sandboxes/`: here its
wishes are written down and its status is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import LATEST, Agent, AgentVersion
from cupola.api.owned import agent_of, caller_of, require_enabled, session_of
from cupola.errors import BadRequest, Conflict, CupolaError, NotFound
from cupola.identity import Caller, Role
from cupola.sandboxes.choice import VersionChoice
from cupola.sandboxes.expiry import Expiry
from cupola.sandboxes.ready import Sandboxes
from cupola.secrecy import brief
from cupola.sessions import Session, check_owner, check_session_id, is_session_id
from cupola.store import Store
from cupola.store import sessions as rows
from cupola.web.body import read_model, read_object
from cupola.web.paging import cursor_list, page_from
from cupola.web.query import flag
from cupola.web.reply import json_reply, no_content
from cupola.web.wire import show_failure

log = structlog.get_logger()


class _VersionIndicator(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "version_ref"
    agent_version: str


class NewSession(BaseModel):
    """The body of a create; all of it may be left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    agent_session_id: str | None = None
    version_indicator: _VersionIndicator | None = None


class Sessions:
    """Handlers of `…/agents/{agent}/endpoint/sessions…`. `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        choice: VersionChoice,
        expiry: Expiry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._choice = choice
        self._expiry = expiry
        self._clock = clock
        self._starts: set[asyncio.Task[None]] = set()

    async def create(self, request: Request) -> Response:
        """`POST sessions`: 201 at once; the sandbox starts behind it."""
        agent, caller = await agent_of(request, self._store), caller_of(request)
        wanted = read_model(NewSession, await read_object(request))
        if wanted.agent_session_id is not None and is_session_id(wanted.agent_session_id):
            request.scope["cupola.session_id"] = wanted.agent_session_id
        _check_new(wanted)
        require_enabled(agent)
        if wanted.agent_session_id is not None:
            await self._require_unused(agent, wanted.agent_session_id)
        indicator = wanted.version_indicator
        named = None if indicator is None else indicator.agent_version
        version = await self._choice.of(agent, named, param="version_indicator.agent_version")
        session = await self._begin(agent, version, caller, wanted.agent_session_id)
        request.scope["cupola.session_id"] = session.id
        return json_reply(self._show(session), 201)

    async def get(self, request: Request) -> Response:
        return json_reply(self._show(await self._session(request)))

    async def list(self, request: Request) -> Response:
        agent, caller = await agent_of(request, self._store), caller_of(request)
        page = page_from(request.query_params)
        mine = None if caller.role.covers(Role.OPERATOR) else caller.user
        found = await self._store.read(lambda conn: rows.list_sessions(conn, agent.project, agent.name, page, mine))
        return json_reply(cursor_list(found, self._show, lambda session: session.id))

    async def stop(self, request: Request) -> Response:
        """`POST sessions/{id}:stop`: ends what runs, keeps the files; done already is done."""
        await self._sandboxes.stop_session(await self._session(request))
        return no_content()

    async def delete(self, request: Request) -> Response:
        """`DELETE sessions/{id}`: sandbox, files, snapshots, row; one that is not there is deleted."""
        keep = flag(request.query_params, "keep_snapshots")
        try:
            session = await self._session(request)
        except NotFound as error:
            if error.param != "agent_session_id":
                raise
            return no_content()
        await self._sandboxes.delete_session(session, keep_snapshots=keep)
        return no_content()

    async def aclose(self) -> None:
        """Waits for nothing: starts are the business of `Sandboxes`, which breaks them off."""
        for task in self._starts:
            task.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)

    async def _begin(self, agent: Agent, version: AgentVersion, caller: Caller, session_id: str | None) -> Session:
        warm = await self._sandboxes.adopt_warm(version, caller.user, session_id)
        if warm is not None and warm.session is not None:
            check_owner(warm.session, caller.user)
            return warm.session
        session = await self._sandboxes.begin_session(agent, version, caller.user, session_id)
        task = asyncio.create_task(self._start(session, agent, version))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        return session

    async def _start(self, session: Session, agent: Agent, version: AgentVersion) -> None:
        try:
            await self._sandboxes.ensure_ready(session, agent, version)
        except CupolaError as error:
            # Its status says so to whoever asks; nobody waits here.
            log.info("a created session did not start", session=session.id, code=error.code, reason=error.message)
        except Exception:
            # The edge of a background task.
            log.exception("the start of a created session failed", session=session.id)

    async def _require_unused(self, agent: Agent, session_id: str) -> None:
        known = await self._store.read(lambda conn: rows.get_session(conn, agent.project, agent.name, session_id))
        if await self._expiry.current(known) is not None:
            raise Conflict(
                f"Session '{session_id}' of agent '{agent.name}' exists already; its id must be unique. "
                "Use it as it is, delete it first, or leave the id out to get a new one.",
                param="agent_session_id",
            )

    async def _session(self, request: Request) -> Session:
        return await session_of(request, await agent_of(request, self._store), self._store)

    def _show(self, session: Session) -> dict[str, Any]:
        live = self._sandboxes.live_of(session.key)
        if live is not None and live.session is not None:
            session = live.session.to_accessed(self._clock() if live.open_requests else live.last)
        return show_session(session, self._clock())


def show_session(session: Session, now: float) -> dict[str, Any]:
    """A session as the wire has it; beside it `error`, the evidence of one that failed, and `usage`."""
    return {
        "object": "agent.session",
        "agent_session_id": session.id,
        "version_indicator": {"type": "version_ref", "agent_version": session.version},
        "status": session.status(now).value,
        "created_at": int(session.created_at),
        "last_accessed_at": int(session.last_accessed_at),
        "expires_at": int(session.expires_at),
        "stopped_at": None if session.stopped_at is None else int(session.stopped_at),
        "error": None if session.failure is None else show_failure(session.failure),
        "usage": {
            "seconds": round(session.used_seconds, 3),
            "cpu_seconds": round(session.used_cpu_seconds, 3),
        },
    }


def _check_new(new: NewSession) -> None:
    """Raises BadRequest for an id or a version that cannot be meant."""
    if new.agent_session_id is not None:
        check_session_id(new.agent_session_id)
    indicator = new.version_indicator
    if indicator is None:
        return
    if indicator.type != "version_ref":
        raise BadRequest(
            f"'version_indicator.type' is {brief(indicator.type)}; it must be 'version_ref'.",
            param="version_indicator.type",
        )
    if indicator.agent_version == LATEST or indicator.agent_version.startswith("@"):
        raise BadRequest(
            f"'version_indicator.agent_version' is {brief(indicator.agent_version)}; aliases are not accepted here. "
            "Name a version such as '1', or leave version_indicator out to go by the endpoint's version selector.",
            param="version_indicator.agent_version",
        )
