"""From a request to the sandbox that serves it: agent, version, session, in that order.

A session that runs is found in memory and costs no question to the store. Everything else (a new session, a sleeping
one, a version that is still being made) takes the slow path. Binding rules: control-plane.md §2.8.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakValueDictionary

from cupola.agents import Agent, AgentVersion, no_agent
from cupola.errors import BadRequest, CupolaError, Forbidden, NotFound, QuotaExceeded
from cupola.gateway.isolation import Users
from cupola.identity import Caller
from cupola.sandboxes.choice import VersionChoice
from cupola.sandboxes.expiry import Expiry
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import Session, check_owner, check_session_id
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows


class Following(Protocol):
    """What this module needs of `sandboxes.moving.Moves`."""

    async def follow(self, agent: Agent, session: Session) -> Session: ...


class Resolver:
    """Finds or makes the sandbox of a request."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        choice: VersionChoice,
        users: Users,
        expiry: Expiry,
        moves: Following,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._choice = choice
        self._users = users
        self._expiry = expiry
        self._moves = moves
        self._disabled: set[tuple[str, str]] = set()
        self._conversation_locks: WeakValueDictionary[SessionKey, asyncio.Lock] = WeakValueDictionary()

    def set_enabled(self, project: str, agent: str, enabled: bool) -> None:
        """A disabled agent's endpoint rejects all requests."""
        if enabled:
            self._disabled.discard((project, agent))
        else:
            self._disabled.add((project, agent))

    async def sandbox(
        self,
        project: str,
        agent_name: str,
        caller: Caller,
        *,
        session_id: str | None = None,
        conversation: str | None = None,
        version: str | None = None,
        protocol: str | None = None,
    ) -> LiveSandbox:
        """A ready sandbox for this request. What goes wrong with a session that is known names it.

        `session_id` picks or makes that session; `conversation` binds one; without either a new session begins.
        A version that does not declare `protocol` is refused before anything begins or starts.
        Raises NotFound, Forbidden, BadRequest, QuotaExceeded, or SessionNotReady with the evidence.
        """
        if (project, agent_name) in self._disabled:
            raise Forbidden(
                f"Agent '{agent_name}' is disabled; its endpoint takes no requests until it is enabled again.",
                code="agent_disabled",
            )
        self._users.check(project, agent_name, caller)
        if session_id is not None:
            live = self._sandboxes.live_of((project, agent_name, session_id))
            if live is not None and live.session is not None:
                check_owner(live.session, caller.user)
                _check_protocol(live.version, protocol)
                if conversation is not None:
                    await self._bind(project, agent_name, conversation, session_id)
                return live
            check_session_id(session_id)
        agent = await self._store.read(lambda conn: agent_rows.get_agent(conn, project, agent_name))
        if agent is None:
            raise no_agent(project, agent_name)
        if session_id is not None or conversation is None:
            live = await self._of_session(agent, caller, session_id, version, protocol)
            if conversation is not None:
                await self._bind(project, agent_name, conversation, live.row.session_id)
            return live
        return await self._of_conversation(agent, caller, conversation, version)

    async def _of_conversation(
        self, agent: Agent, caller: Caller, conversation: str, version: str | None
    ) -> LiveSandbox:
        lock = self._conversation_locks.setdefault((agent.project, agent.name, conversation), asyncio.Lock())
        async with lock:
            bound = await self._bound(agent.project, agent.name, conversation)
            live = await self._of_session(agent, caller, bound, version, is_bound=True)
            if live.row.session_id != bound:
                await self._bind(agent.project, agent.name, conversation, live.row.session_id)
        return live

    async def _bound(self, project: str, agent: str, conversation: str) -> str | None:
        return await self._store.read(
            lambda conn: session_rows.session_of_conversation(conn, project, agent, conversation)
        )

    async def _bind(self, project: str, agent: str, conversation: str, session_id: str) -> None:
        if await self._bound(project, agent, conversation) != session_id:
            await self._store.write(
                lambda conn: session_rows.bind_conversation(conn, project, agent, conversation, session_id)
            )

    async def _of_session(
        self,
        agent: Agent,
        caller: Caller,
        session_id: str | None,
        wanted: str | None,
        protocol: str | None = None,
        *,
        is_bound: bool = False,
    ) -> LiveSandbox:
        """A session of that id, or a new one; for a conversation whose session has ended, under an id of its own."""
        known = await self._known(agent, session_id)
        if known is None and is_bound:
            session_id = None
        if known is not None:
            check_owner(known, caller.user)
            known = await self._moves.follow(agent, known)
            live = self._sandboxes.live_of(known.key)
            return live or await self._resume(agent, known, protocol)
        version = await self._choice.of(agent, wanted)
        _check_protocol(version, protocol)
        warm = await self._sandboxes.adopt_warm(version, caller.user, session_id)
        if warm is not None and warm.session is not None:
            check_owner(warm.session, caller.user)
            return warm
        session = await self._sandboxes.begin_session(agent, version, caller.user, session_id)
        check_owner(session, caller.user)
        try:
            return await self._resume(agent, session)
        except QuotaExceeded:
            await self._sandboxes.forget_unused(session)
            raise

    async def _known(self, agent: Agent, session_id: str | None) -> Session | None:
        if session_id is None:
            return None
        known = await self._store.read(
            lambda conn: session_rows.get_session(conn, agent.project, agent.name, session_id)
        )
        return await self._expiry.current(known)

    async def _resume(self, agent: Agent, session: Session, protocol: str | None = None) -> LiveSandbox:
        try:
            return await self._ready(agent, session, protocol)
        except CupolaError as error:
            error.extra |= {"agent_session_id": session.id, "agent_version": session.version}
            raise

    async def _ready(self, agent: Agent, session: Session, protocol: str | None) -> LiveSandbox:
        version = await self._store.read(
            lambda conn: agent_rows.get_version(conn, session.project, session.agent, session.version)
        )
        if version is None:
            raise NotFound(
                f"Session '{session.id}' is bound to version {session.agent}:{session.version}, which was deleted.",
                param="agent_session_id",
            )
        _check_protocol(version, protocol)
        return await self._sandboxes.ensure_ready(session, agent, version)


def _check_protocol(version: AgentVersion, protocol: str | None) -> None:
    if protocol is not None and version.definition.protocol(protocol) is None:
        raise BadRequest(
            f"Agent '{version.agent}' does not speak the {protocol} protocol; its definition declares "
            f"{', '.join(p.protocol for p in version.definition.protocols)}.",
        )
