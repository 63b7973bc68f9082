"""On which version a new session begins: the one that is named, or what the endpoint's selector says.

A request that comes while an agent's first version is still being made waits for it. Rules: control-plane.md §2.3.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from cupola.agents import Agent, AgentVersion, VersionStatus, choose_version
from cupola.errors import BadRequest, NotFound, SessionNotReady
from cupola.sandboxes.evidence import not_ready
from cupola.secrecy import brief
from cupola.store import Store
from cupola.store import agents as rows


class Provisioning(Protocol):
    """What this module needs of `sandboxes.reconcile.Versions`."""

    async def settled(self, version: AgentVersion, timeout: float) -> AgentVersion | None: ...


class VersionChoice:
    """`patience` is how many seconds a request waits for a version that is being made."""

    def __init__(
        self, store: Store, provisioning: Provisioning, *, patience: float, dice: random.Random | None = None
    ) -> None:
        self._store = store
        self._provisioning = provisioning
        self._patience = patience
        self._dice = dice or random.Random()  # noqa: S311 (weights of traffic, no secret)

    async def of(self, agent: Agent, wanted: str | None, *, param: str = "agent_reference.version") -> AgentVersion:
        """The active version for a new session; waits for one that is being made if there is no other.

        Raises BadRequest while it is not ready, NotFound naming `param`, or SessionNotReady with why it failed.
        """
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
        raise _no_version(agent, candidates, wanted, param)

    async def _candidates(self, agent: Agent, wanted: str | None) -> Sequence[AgentVersion]:
        def question(conn: Any) -> Sequence[AgentVersion]:
            if wanted is None:
                return rows.newest_versions(conn, agent.project, agent.name, include_drafts=False)
            version = rows.get_version(conn, agent.project, agent.name, wanted)
            return [] if version is None else [version]

        return await self._store.read(question)

    def _choose(self, agent: Agent, candidates: Sequence[AgentVersion], wanted: str | None) -> AgentVersion | None:
        if wanted is None:
            return choose_version(agent, candidates, self._dice)
        return next((v for v in candidates if v.status is VersionStatus.ACTIVE), None)


def _no_version(
    agent: Agent, candidates: Sequence[AgentVersion], wanted: str | None, param: str
) -> NotFound | SessionNotReady:
    failed = next((v for v in candidates if v.failure is not None), None)
    if failed is not None and failed.failure is not None:
        error = not_ready(failed.failure, None)
        error.message = f"Version {failed.agent}:{failed.version} failed to provision: {failed.failure.message}"
        return error
    what = "no active version" if wanted is None else f"no version {brief(wanted)}"
    return NotFound(f"Agent '{agent.name}' has {what}. Create one first.", param=param)
