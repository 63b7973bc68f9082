"""From a request to the sandbox that serves it: agent, version, session, in that order.

A session that runs is found in memory and costs no question to the store. Everything else (a new session, a sleeping
one, a version that is still being made) takes the slow path. Binding rules: control-plane.md §2.8.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from cupola.agents import Agent, AgentVersion, VersionStatus, choose_version
from cupola.errors import BadRequest, Forbidden, NotFound, SessionNotReady
from cupola.identity import Caller
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sandboxes.ready import Sandboxes, check_owner, not_ready
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows

MAX_SESSION_ID = 128


class Provisioning(Protocol):
    """What this module needs of `sandboxes.reconcile.Versions`."""

    async def settled(self, version: AgentVersion, timeout: float) -> AgentVersion | None: ...


class Resolver:
    """Finds or makes the sandbox of a request. `patience` is how long it waits for a version that is being made."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        provisioning: Provisioning,
        *,
        patience: float,
        dice: random.Random | None = None,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._provisioning = provisioning
        self._patience = patience
        self._dice = dice or random.Random()  # noqa: S311 (weights of traffic, no secret)
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
        """A ready sandbox for this request.

        `session_id` picks or makes that session; `conversation` binds one; without either a new session begins.
        A version that does not declare `protocol` is refused before anything begins or starts.
        Raises NotFound, Forbidden, BadRequest, QuotaExceeded, or SessionNotReady with the evidence.
        """
        if (project, agent_name) in self._disabled:
            raise Forbidden(
                f"Agent '{agent_name}' is disabled; its endpoint takes no requests until it is enabled again.",
                code="agent_disabled",
            )
        if session_id is not None:
            live = self._sandboxes.live_of((project, agent_name, session_id))
            if live is not None and live.session is not None:
                check_owner(live.session, caller.user)
                _check_protocol(live.version, protocol)
                if conversation is not None:
                    await self._bind(project, agent_name, conversation, session_id)
                return live
            _check_session_id(session_id)
        agent = await self._store.read(lambda conn: agent_rows.get_agent(conn, project, agent_name))
        if agent is None:
            raise NotFound(f"Agent '{agent_name}' does not exist in project '{project}'.", param="agent_name")
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
            live = await self._of_session(agent, caller, bound, version)
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
        self, agent: Agent, caller: Caller, session_id: str | None, wanted: str | None, protocol: str | None = None
    ) -> LiveSandbox:
        known = await self._known(agent, session_id)
        if known is not None:
            check_owner(known, caller.user)
            live = self._sandboxes.live_of(known.key)
            return live or await self._resume(agent, known, protocol)
        version = await self._version(agent, wanted)
        _check_protocol(version, protocol)
        if session_id is None:
            warm = await self._sandboxes.adopt_warm(agent, version, caller.user)
            if warm is not None:
                return warm
        session = await self._sandboxes.begin_session(agent, version, caller.user, session_id)
        check_owner(session, caller.user)
        return await self._resume(agent, session)

    async def _known(self, agent: Agent, session_id: str | None) -> Session | None:
        if session_id is None:
            return None
        known = await self._store.read(
            lambda conn: session_rows.get_session(conn, agent.project, agent.name, session_id)
        )
        return None if known is not None and known.desired is Desired.DELETED else known

    async def _resume(self, agent: Agent, session: Session, protocol: str | None = None) -> LiveSandbox:
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

    async def _version(self, agent: Agent, wanted: str | None) -> AgentVersion:
        """The version on which a new session begins; waits for one that is being made if there is no other."""
        candidates = await self._candidates(agent, wanted)
        chosen = self._choose(agent, candidates, wanted)
        if chosen is not None:
            return chosen
        making = next((v for v in candidates if v.status is VersionStatus.CREATING), None)
        if making is not None:
            settled = await self._provisioning.settled(making, self._patience)
            if settled is not None and settled.status is VersionStatus.CREATING:
                raise BadRequest(
                    f"Agent version is still being provisioned: {making.agent}:{making.version} is in phase "
                    f"{settled.phase}. Poll the version until its status is active.",
                    code="bad_request",
                )
            candidates = await self._candidates(agent, wanted)
            chosen = self._choose(agent, candidates, wanted)
            if chosen is not None:
                return chosen
        raise _no_version(agent, candidates, wanted)

    async def _candidates(self, agent: Agent, wanted: str | None) -> Sequence[AgentVersion]:
        def question(conn: Any) -> Sequence[AgentVersion]:
            if wanted is None:
                return agent_rows.newest_versions(conn, agent.project, agent.name, include_drafts=False)
            version = agent_rows.get_version(conn, agent.project, agent.name, wanted)
            return [] if version is None else [version]

        return await self._store.read(question)

    def _choose(self, agent: Agent, candidates: Sequence[AgentVersion], wanted: str | None) -> AgentVersion | None:
        if wanted is None:
            return choose_version(agent, candidates, self._dice)
        return next((v for v in candidates if v.status is VersionStatus.ACTIVE), None)


def _no_version(agent: Agent, candidates: Sequence[AgentVersion], wanted: str | None) -> NotFound | SessionNotReady:
    failed = next((v for v in candidates if v.failure is not None), None)
    if failed is not None and failed.failure is not None:
        error = not_ready(failed.failure, None)
        error.message = f"Version {failed.agent}:{failed.version} failed to provision: {failed.failure.message}"
        return error
    what = "no active version" if wanted is None else f"no version '{wanted}'"
    return NotFound(f"Agent '{agent.name}' has {what}. Create one first.", param="agent_reference.version")


def _check_protocol(version: AgentVersion, protocol: str | None) -> None:
    if protocol is not None and version.definition.protocol(protocol) is None:
        raise BadRequest(
            f"Agent '{version.agent}' does not speak the {protocol} protocol; its definition declares "
            f"{', '.join(p.protocol for p in version.definition.protocols)}.",
        )


def _check_session_id(session_id: str) -> None:
    if not 0 < len(session_id) <= MAX_SESSION_ID or not session_id.replace("-", "").replace("_", "").isalnum():
        raise BadRequest(
            f"The session id must be 1 to {MAX_SESSION_ID} letters, digits, hyphens and underscores.",
            param="agent_session_id",
        )
    if not session_id.isascii():
        raise BadRequest("The session id must be ASCII.", param="agent_session_id")
