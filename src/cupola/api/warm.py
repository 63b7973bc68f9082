"""Warm pools, seen and resized: Cupola's own, beside the wire (`docs/warm-starts.md`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import MAX_WARM_POOL, AgentVersion, declared_pool, no_agent
from cupola.errors import NotFound
from cupola.sandboxes.warm import PoolState, WarmPools
from cupola.secrecy import brief
from cupola.store import Store
from cupola.store import agents as rows
from cupola.web.body import read_model, read_object
from cupola.web.reply import json_reply


class PoolSize(BaseModel):
    """`warm_pool` null takes the last word back: then the version's metadata decides, or else the setting."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    warm_pool: Annotated[StrictInt, Field(ge=0, le=MAX_WARM_POOL)] | None


class Pools:
    """Handlers."""

    def __init__(self, store: Store, pools: WarmPools) -> None:
        self._store = store
        self._pools = pools

    async def list(self, request: Request) -> Response:
        """`GET …/warm`: the pool of each version that gets traffic or has sandboxes waiting, newest first."""
        project, name = request.path_params["project"], request.path_params["agent"]
        if await self._store.read(lambda conn: rows.get_agent(conn, project, name)) is None:
            raise no_agent(project, name)
        states = await self._pools.of_agent(project, name)
        shown = [state for state in states if state.wish.gets_traffic or state.ready or state.starting]
        return json_reply({"object": "list", "data": [show_pool(state) for state in shown]})

    async def resize(self, request: Request) -> Response:
        """`POST …/versions/{version}:warm`: another size, from now on, without a new version."""
        version = await self._version(request)
        wanted = read_model(PoolSize, await read_object(request))
        size = declared_pool(version.metadata) if wanted.warm_pool is None else wanted.warm_pool
        await self._pools.resize(version, size)
        states = await self._pools.of_agent(version.project, version.agent)
        resized = next((state for state in states if state.wish.version.key == version.key), None)
        if resized is None:  # deleted meanwhile
            raise _no_version(version.agent, version.version)
        return json_reply(show_pool(resized))

    async def _version(self, request: Request) -> AgentVersion:
        project, name = request.path_params["project"], request.path_params["agent"]
        wanted = request.path_params["version"]

        def question(conn: Any) -> tuple[bool, AgentVersion | None]:
            return rows.get_agent(conn, project, name) is not None, rows.get_version(conn, project, name, wanted)

        there, version = await self._store.read(question)
        if not there:
            raise no_agent(project, name)
        if version is None:
            raise _no_version(name, wanted)
        return version


def show_pool(state: PoolState) -> dict[str, Any]:
    wish, trouble = state.wish, state.trouble
    return {
        "object": "cupola.warm_pool",
        "project": wish.agent.project,
        "agent": wish.agent.name,
        "version": wish.version.version,
        "gets_traffic": wish.gets_traffic,
        "warm_pool": wish.size,
        "wanted": wish.wanted,
        "ready": state.ready,
        "starting": state.starting,
        "binds_late": wish.version.binds_late,
        "waits_for_room": state.waits_for_room,
        "trouble": None
        if trouble is None
        else {"reason": trouble.reason, "failures": trouble.failures, "retry_at": int(trouble.retry_at)},
    }


def _no_version(agent: str, version: str) -> NotFound:
    return NotFound(f"Agent '{agent}' has no version {brief(version)}.", param="agent_version")
