"""The control plane's agents: list, get, create, update, configure, enable, disable, delete (control-plane.md §2.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import Agent, AgentVersion, check_agent_name, no_agent
from cupola.api.versions import Versions, is_forced, refuse_active_sessions
from cupola.errors import BadRequest, NotServed
from cupola.sandboxes import reconcile
from cupola.secrecy import brief
from cupola.store import Store
from cupola.store import agents as rows
from cupola.web.body import read_object
from cupola.web.endpoint import configured
from cupola.web.paging import cursor_list, page_from
from cupola.web.reply import json_reply, no_content
from cupola.web.wire import show_agent

HOSTED = "hosted"
KINDS = (HOSTED, "prompt", "workflow", "external", "voice", "container_app")
"""What a list may be asked for, by clients of any generation; there are hosted agents only."""


class Agents:
    """Handlers. `versions` makes the versions that a create or update of an agent brings along."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        provisioning: reconcile.Versions,
        on_enabled: Callable[[str, str, bool], None],
        on_endpoint: Callable[[str, str, Mapping[str, Any]], None],
        delete_snapshots: Callable[[str, str], Awaitable[None]],
        on_deleted: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._versions = versions
        self._provisioning = provisioning
        self._on_enabled = on_enabled
        self._on_endpoint = on_endpoint
        self._delete_snapshots = delete_snapshots
        self._on_deleted = on_deleted

    async def list(self, request: Request) -> Response:
        project = request.path_params["project"]
        page = page_from(request.query_params)
        kind = request.query_params.get("kind") or HOSTED
        if kind not in KINDS:
            raise BadRequest(f"'kind' is {brief(kind)}; it must be one of {', '.join(KINDS)}.", param="kind")

        def question(conn: Any) -> tuple[Any, dict[str, AgentVersion]]:
            found = rows.list_agents(conn, project, page)
            return found, rows.latest_versions(conn, project, [agent.name for agent in found.items])

        found, latest = await self._store.read(question)
        if kind != HOSTED:
            found = replace(found, items=[], has_more=False)
        return json_reply(
            cursor_list(found, lambda agent: show_agent(agent, latest.get(agent.name)), lambda agent: agent.name)
        )

    async def get(self, request: Request) -> Response:
        agent, latest = await self._load(request)
        return json_reply(show_agent(agent, latest))

    async def create(self, request: Request) -> Response:
        """`POST /agents`: a new agent with version 1; multipart names the agent in `x-ms-agent-name`."""
        project = request.path_params["project"]
        new = await self._versions.read_new(request)
        name = _name_of(new.body, request)
        await self._versions.make(project, name, new, agent_exists=False)
        return await self._changed(project, name)

    async def update(self, request: Request) -> Response:
        """`POST /agents/{name}`: a new version of an agent that exists, answered with the agent."""
        if ":" in request.path_params["agent"]:
            raise NotServed(f"Cupola does not serve the action {brief(request.path_params['agent'])} of agents (yet).")
        agent, _ = await self._load(request)
        new = await self._versions.read_new(request)
        await self._versions.make(agent.project, agent.name, new, agent_exists=True)
        return await self._changed(agent.project, agent.name)

    async def configure(self, request: Request) -> Response:
        """`PATCH /agents/{name}`: endpoint and card by merge patch (RFC 7396)."""
        project, name = request.path_params["project"], request.path_params["agent"]
        body = await read_object(request)

        def change(conn: Any) -> None:
            agent = rows.get_agent(conn, project, name)
            if agent is None:
                raise no_agent(project, name)
            versions = rows.newest_versions(conn, project, name, include_drafts=True)
            rows.put_agent(conn, configured(agent, body, versions))

        await self._store.write(change)
        return await self._changed(project, name)

    async def enable(self, request: Request) -> Response:
        return await self._set_enabled(request, True)

    async def disable(self, request: Request) -> Response:
        return await self._set_enabled(request, False)

    async def delete(self, request: Request) -> Response:
        forced = is_forced(request)
        agent, _ = await self._load(request)

        def remaining(conn: Any) -> list[AgentVersion]:
            return rows.newest_versions(conn, agent.project, agent.name, include_drafts=True)

        def finish(conn: Any) -> list[AgentVersion]:
            """Deletes the agent, unless a version was made while the others went."""
            left = remaining(conn)
            if not left:
                rows.delete_agent(conn, agent.project, agent.name)
            return left

        versions = await self._store.read(remaining)
        if not forced:
            for version in versions:
                await refuse_active_sessions(self._store, version)
        await self._provisioning.require_homes(versions)
        while True:
            for version in versions:
                await self._provisioning.delete(version)
            await self._delete_snapshots(agent.project, agent.name)  # those that outlived their sessions
            versions = await self._store.write(finish)
            if not versions:
                break
        await self._on_deleted(agent.project, agent.name)
        self._on_enabled(agent.project, agent.name, True)  # of its name: the next agent to have it starts afresh
        self._on_endpoint(agent.project, agent.name, {})
        return json_reply({"object": "agent.deleted", "name": agent.name, "deleted": True})

    async def _load(self, request: Request) -> tuple[Agent, AgentVersion | None]:
        project, name = request.path_params["project"], request.path_params["agent"]
        return await self._read(project, name)

    async def _read(self, project: str, name: str) -> tuple[Agent, AgentVersion | None]:
        def question(conn: Any) -> tuple[Agent | None, AgentVersion | None]:
            return rows.get_agent(conn, project, name), rows.latest_version(conn, project, name)

        agent, latest = await self._store.read(question)
        if agent is None:
            raise no_agent(project, name)
        return agent, latest

    async def _changed(self, project: str, name: str) -> Response:
        """The agent after a change, told to who keeps its endpoint in mind."""
        agent, latest = await self._read(project, name)
        self._on_endpoint(project, name, agent.endpoint)
        return json_reply(show_agent(agent, latest))

    async def _set_enabled(self, request: Request, enabled: bool) -> Response:
        agent, _ = await self._load(request)

        def change(conn: Any) -> None:
            current = rows.get_agent(conn, agent.project, agent.name)
            if current is None:
                raise no_agent(agent.project, agent.name)
            rows.put_agent(conn, replace(current, enabled=enabled))

        await self._store.write(change)
        self._on_enabled(agent.project, agent.name, enabled)
        return no_content()


def _name_of(body: Mapping[str, Any], request: Request) -> str:
    """The name of a new agent: in the body, or in the header that azd sends with an upload (§2.4)."""
    named, header = body.get("name"), request.headers.get("x-ms-agent-name")
    name = header if named is None else named
    if name is None:
        raise BadRequest("'name' is missing: it names the agent.", param="name")
    if not isinstance(name, str):
        raise BadRequest(f"'name' is {brief(name)}; it must be a text.", param="name")
    if header is not None and header != name:
        raise BadRequest(
            f"The body names the agent {brief(name)}, and x-ms-agent-name {brief(header)}; send one name.",
            param="name",
        )
    check_agent_name(name)
    return name
