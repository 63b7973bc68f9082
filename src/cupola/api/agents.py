"""The control plane's agents: list, get, create, update, configure, enable, disable, delete (control-plane.md §2.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import LATEST, Agent, AgentVersion, check_agent_name
from cupola.api.versions import Versions, is_forced, refuse_active_sessions
from cupola.errors import BadRequest, Conflict, NotFound
from cupola.identity import check_authorization
from cupola.sandboxes import reconcile
from cupola.store import Store
from cupola.store import agents as rows
from cupola.web.body import read_object
from cupola.web.paging import cursor_list, page_from
from cupola.web.reply import json_reply, no_content
from cupola.web.wire import read_rules, show_agent


class Agents:
    """Handlers. `versions` makes the versions that a create or update of an agent brings along."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        provisioning: reconcile.Versions,
        on_enabled: Callable[[str, str, bool], None],
        on_endpoint: Callable[[str, str, Mapping[str, Any]], None],
    ) -> None:
        self._store = store
        self._versions = versions
        self._provisioning = provisioning
        self._on_enabled = on_enabled
        self._on_endpoint = on_endpoint

    async def list(self, request: Request) -> Response:
        project = request.path_params["project"]
        page = page_from(request.query_params)
        kind = request.query_params.get("kind", "hosted")

        def question(conn: Any) -> tuple[Any, dict[str, AgentVersion]]:
            found = rows.list_agents(conn, project, page)
            return found, rows.latest_versions(conn, project, [agent.name for agent in found.items])

        found, latest = await self._store.read(question)
        if kind != "hosted":
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
        new, body, package = await self._versions.read_new(request)
        name = body.get("name") or request.headers.get("x-ms-agent-name")
        if not isinstance(name, str):
            raise BadRequest("'name' is missing: it names the agent.", param="name")
        check_agent_name(name)
        if await self._store.read(lambda conn: rows.get_agent(conn, project, name)) is not None:
            raise Conflict(f"Agent '{name}' already exists.", param="name")
        _check_configuration(body)
        await self._versions.make(project, name, new, package)
        if "agent_endpoint" in body or "agent_card" in body:
            await self._configure(project, name, body)
        return await self._shown(project, name)

    async def update(self, request: Request) -> Response:
        """`POST /agents/{name}`: a new version of an agent that exists, answered with the agent."""
        agent, _ = await self._load(request)
        new, _, package = await self._versions.read_new(request)
        await self._versions.make(agent.project, agent.name, new, package)
        return await self._shown(agent.project, agent.name)

    async def configure(self, request: Request) -> Response:
        """`PATCH /agents/{name}`: endpoint and card by merge patch (RFC 7396)."""
        agent, _ = await self._load(request)
        await self._configure(agent.project, agent.name, await read_object(request))
        return await self._shown(agent.project, agent.name)

    async def enable(self, request: Request) -> Response:
        return await self._set_enabled(request, True)

    async def disable(self, request: Request) -> Response:
        return await self._set_enabled(request, False)

    async def delete(self, request: Request) -> Response:
        agent, _ = await self._load(request)
        versions = await self._store.read(
            lambda conn: rows.newest_versions(conn, agent.project, agent.name, include_drafts=True)
        )
        if not is_forced(request):
            for version in versions:
                await refuse_active_sessions(self._store, version)
        for version in versions:
            await self._provisioning.delete(version)
        await self._store.write(lambda conn: rows.delete_agent(conn, agent.project, agent.name))
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
            raise NotFound(f"Agent '{name}' does not exist in project '{project}'.", param="agent_name")
        return agent, latest

    async def _shown(self, project: str, name: str) -> Response:
        agent, latest = await self._read(project, name)
        return json_reply(show_agent(agent, latest))

    async def _set_enabled(self, request: Request, enabled: bool) -> Response:
        agent, _ = await self._load(request)
        await self._store.write(lambda conn: rows.put_agent(conn, replace(agent, enabled=enabled)))
        self._on_enabled(agent.project, agent.name, enabled)
        return no_content()

    async def _configure(self, project: str, name: str, body: dict[str, Any]) -> None:
        _check_configuration(body)

        def change(conn: Any) -> Agent:
            agent = rows.get_agent(conn, project, name)
            if agent is None:
                raise NotFound(f"Agent '{name}' does not exist in project '{project}'.", param="agent_name")
            if "agent_endpoint" in body:
                endpoint = merge_patch(agent.endpoint, body["agent_endpoint"]) or {}
                agent = replace(agent, endpoint=endpoint, rules=read_rules(endpoint))
                known = {v.version for v in rows.newest_versions(conn, project, name, include_drafts=False)}
                for rule in agent.rules:
                    if rule.version not in known | {LATEST}:
                        raise BadRequest(
                            f"Agent '{name}' has no version '{rule.version}' that could get traffic.",
                            param="agent_endpoint.version_selector",
                        )
            if "agent_card" in body:
                card = body["agent_card"]
                agent = replace(agent, card=None if card is None else merge_patch(agent.card or {}, card))
            rows.put_agent(conn, agent)
            return agent

        changed = await self._store.write(change)
        self._on_endpoint(project, name, changed.endpoint)


def _check_configuration(body: dict[str, Any]) -> None:
    """Raises BadRequest unless endpoint and card, where they are sent, are objects (or null) that make sense."""
    for field in ("agent_endpoint", "agent_card"):
        if not isinstance(body.get(field), dict | None):
            raise BadRequest(f"'{field}' must be an object, or null to go back to the defaults.", param=field)
    read_rules(body.get("agent_endpoint") or {})
    check_authorization(body.get("agent_endpoint") or {})


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects merge, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
