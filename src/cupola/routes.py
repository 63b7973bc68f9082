"""Every URL of the platform, on one screen. The data plane comes first: it is asked most.

`…/openai` and `…/openai/v1` are the two base layouts of the clients (control-plane.md §1.1).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from cupola.api.agents import Agents
from cupola.api.bundles import Bundles
from cupola.api.files import Files
from cupola.api.health import Health
from cupola.api.logs import Logs
from cupola.api.moves import SessionMoves
from cupola.api.openapi import OpenApi
from cupola.api.sessions import Sessions
from cupola.api.snapshots import Snapshots
from cupola.api.stats import Stats
from cupola.api.stopping import Stopping
from cupola.api.versions import Versions
from cupola.api.warm import Pools
from cupola.callbacks.conversations import ConversationItems
from cupola.callbacks.state import StateStores
from cupola.callbacks.storage import Storage
from cupola.callbacks.tokens import ClientTokens, SandboxTokens
from cupola.errors import Forbidden, NotFound, NotServed
from cupola.gateway.a2a import A2A
from cupola.gateway.activity import Activities
from cupola.gateway.conversations import Conversations
from cupola.gateway.invocations import Invocations
from cupola.gateway.responses import Responses
from cupola.gateway.websocket import WebSockets
from cupola.identity import Caller, Role, UserFrom

PROJECT = "/api/projects/{project}"
AGENT = PROJECT + "/agents/{agent}"
PROTOCOLS = AGENT + "/endpoint/protocols"
SESSIONS = AGENT + "/endpoint/sessions"
FILES = SESSIONS + "/{session}/files"
OWN_PROJECT = "/cupola/projects/{project}"
"""What Cupola offers beside the wire, of a project and of an agent."""
OWN = OWN_PROJECT + "/agents/{agent}"
SNAPSHOTS = OWN + "/sessions/{session}/snapshots"
STATE_STORES = PROJECT + "/storage/state_stores"
READ, USE, OPERATE = Role.READER, Role.USER, Role.OPERATOR
OPEN = frozenset({"/cupola/health", "/openapi.json"})
"""Paths that need no token."""

OPENAI_BASES = (
    PROTOCOLS + "/openai/v1",
    PROTOCOLS + "/openai",
    PROJECT + "/openai/v1",
    PROJECT + "/openai",
)


@dataclass(frozen=True, slots=True)
class Handlers:
    """Everything that the clients' routes lead to."""

    agents: Agents
    versions: Versions
    sessions: Sessions
    stopping: Stopping
    bundles: Bundles
    stats: Stats
    files: Files
    logs: Logs
    snapshots: Snapshots
    moves: SessionMoves
    responses: Responses
    conversations: Conversations
    invocations: Invocations
    sockets: WebSockets
    activities: Activities
    a2a: A2A
    pools: Pools
    health: Health
    openapi: OpenApi


def client_routes(to: Handlers) -> list[BaseRoute]:
    """What clients reach, with a client's token (all but `/cupola/health`). What is asked most is found first."""
    return [
        raw("POST", PROTOCOLS + "/invocations", to.invocations.create, USE),
        *(raw("POST", base + "/responses", to.responses.create, USE) for base in OPENAI_BASES),
        raw("GET", PROTOCOLS + "/invocations/docs/{document}", to.invocations.document, USE),
        raw("GET", PROTOCOLS + "/invocations/{invocation}", to.invocations.poll, USE),
        raw("POST", PROTOCOLS + "/invocations/{invocation}/cancel", to.invocations.cancel, USE),
        socket(PROTOCOLS + "/invocations_ws", to.sockets.connect, USE),
        raw("GET", PROTOCOLS + "/invocations_ws", to.sockets.explain, USE),
        _Spelled("POST", PROTOCOLS, "activityprotocol", "activity(?:protocol)?", to.activities.send, USE),
        *_a2a_routes(PROTOCOLS + "/a2a", to.a2a),
        *(route for base in OPENAI_BASES for route in _openai_routes(base, to)),
        call("GET", SESSIONS, to.sessions.list, USE),
        call("POST", SESSIONS, to.sessions.create, USE),
        call("POST", SESSIONS + "/{session}:stop", to.sessions.stop, USE),
        call("GET", SESSIONS + "/{session}", to.sessions.get, USE),
        call("DELETE", SESSIONS + "/{session}", to.sessions.delete, USE),
        call("PUT", FILES + "/content", to.files.upload, USE),
        raw("GET", FILES + "/content", to.files.download, USE),
        call("GET", FILES, to.files.list, USE),
        call("DELETE", FILES, to.files.delete, USE),
        call("POST", FILES + "/mkdir", to.files.make_directory, USE),
        call("GET", FILES + "/stat", to.files.stat, USE),
        raw("GET", AGENT + "/versions/{version}/sessions/{session}:logstream", to.logs.of_session_of_version, USE),
        raw("GET", AGENT + "/sessions/{session}:logstream", to.logs.of_session, USE),
        raw("GET", AGENT + "/versions/{version}/containers/default:logstream", to.logs.of_version, USE),
        call("GET", SNAPSHOTS, to.snapshots.list, USE),
        call("POST", SNAPSHOTS, to.snapshots.create, USE),
        call("DELETE", SNAPSHOTS + "/{snapshot}", to.snapshots.delete, USE),
        call("POST", OWN + "/sessions/{session}:restore", to.snapshots.restore, USE),
        call("POST", OWN + "/sessions/{session}:fork", to.snapshots.fork, USE),
        call("POST", OWN + "/sessions/{session}:move", to.moves.move, USE),
        call("POST", OWN + "/sessions:move", to.moves.move_many, USE),
        call("GET", PROJECT + "/agents", to.agents.list, READ),
        call("POST", PROJECT + "/agents", to.agents.create, OPERATE),
        call("GET", AGENT + "/versions", to.versions.list, READ),
        call("POST", AGENT + "/versions", to.versions.create, OPERATE),
        call("GET", AGENT + "/versions/{version}", to.versions.get, READ),
        call("DELETE", AGENT + "/versions/{version}", to.versions.delete, OPERATE),
        call("GET", AGENT + "/code:download", to.versions.download, OPERATE),
        call("POST", AGENT + ":enable", to.agents.enable, OPERATE),
        call("POST", AGENT + ":disable", to.agents.disable, OPERATE),
        call("GET", AGENT, to.agents.get, READ),
        call("POST", AGENT, to.agents.update, OPERATE),
        call("PATCH", AGENT, to.agents.configure, OPERATE),
        call("DELETE", AGENT, to.agents.delete, OPERATE),
        call("POST", OWN + "/sessions/{session}:kill", to.stopping.kill, USE),
        call("POST", OWN_PROJECT + "/sessions:stop", to.stopping.stop_all, USE),
        raw("GET", OWN + "/sessions/{session}/bundle", to.bundles.get, USE),
        call("GET", OWN + "/stats", to.stats.get, READ),
        raw("GET", OWN + "/logs", to.logs.of_agent, USE),
        call("GET", OWN + "/warm", to.pools.list, READ),
        call("POST", OWN + "/versions/{version}:warm", to.pools.resize, OPERATE),
        call("GET", "/cupola/health", to.health.health),
        call("GET", "/cupola/status", to.health.status, READ),
        call("GET", "/openapi.json", to.openapi.get),
    ]


def _openai_routes(base: str, to: Handlers) -> list[BaseRoute]:
    return [
        raw("GET", base + "/responses/{response}", to.responses.retrieve, USE),
        raw("POST", base + "/responses/{response}/cancel", to.responses.cancel, USE),
        call("DELETE", base + "/responses/{response}", to.responses.delete, USE),
        call("GET", base + "/responses/{response}/input_items", to.responses.input_items, USE),
        call("POST", base + "/conversations", to.conversations.create, USE),
        call("GET", base + "/conversations/{conversation}", to.conversations.get, USE),
        call("POST", base + "/conversations/{conversation}", to.conversations.update, USE),
        call("DELETE", base + "/conversations/{conversation}", to.conversations.delete, USE),
        call("GET", base + "/conversations/{conversation}/items", to.conversations.list_items, USE),
        call("POST", base + "/conversations/{conversation}/items", to.conversations.add_items, USE),
        call("GET", base + "/conversations/{conversation}/items/{item}", to.conversations.get_item, USE),
        call("DELETE", base + "/conversations/{conversation}/items/{item}", to.conversations.delete_item, USE),
    ]


def _a2a_routes(base: str, a2a: A2A) -> list[BaseRoute]:
    return [
        raw("POST", base, a2a.rpc, USE),
        call("GET", base + "/agentCard/v0.3", a2a.card, READ),
        call("GET", base + "/agentCard/v1.0", a2a.card_1_0, READ),
        call("GET", base + "/.well-known/agent-card.json", a2a.card, READ),
        raw("POST", base + "/v1/message:send", a2a.send_message, USE),
        raw("POST", base + "/v1/message:stream", a2a.stream_message, USE),
        raw("GET", base + "/v1/tasks/{task}", a2a.get_task, USE),
        raw("POST", base + "/v1/tasks/{task}:cancel", a2a.cancel_task, USE),
    ]


def callback_routes(storage: Storage, state: StateStores, conversation_items: ConversationItems) -> list[BaseRoute]:
    """What sandboxes reach over https, with their own token."""
    return [
        call("POST", PROJECT + "/storage/responses", storage.create),
        call("GET", PROJECT + "/storage/responses/{response}", storage.get),
        call("POST", PROJECT + "/storage/responses/{response}", storage.update),
        call("DELETE", PROJECT + "/storage/responses/{response}", storage.delete),
        call("GET", PROJECT + "/storage/responses/{response}/input_items", storage.input_items),
        call("GET", PROJECT + "/storage/history/item_ids", storage.history),
        call("POST", PROJECT + "/storage/items/batch/retrieve", storage.items),
        *(
            route
            for base in (PROJECT + "/openai", PROJECT + "/openai/v1")
            for route in (
                call("GET", base + "/conversations/{conversation}/items", conversation_items.list),
                call("POST", base + "/conversations/{conversation}/items", conversation_items.create),
            )
        ),
        call("POST", STATE_STORES, state.create),
        call("GET", STATE_STORES + "/{store}", state.get),
        call("PATCH", STATE_STORES + "/{store}", state.update),
        call("DELETE", STATE_STORES + "/{store}", state.delete),
        call("POST", STATE_STORES + "/{store}/items", state.create_item),
        call("GET", STATE_STORES + "/{store}/items:keys", state.list_keys),
        call("PUT", STATE_STORES + "/{store}/items/{key}", state.put_item),
        call("GET", STATE_STORES + "/{store}/items/{key}", state.get_item),
        call("DELETE", STATE_STORES + "/{store}/items/{key}", state.delete_item),
    ]


def token_routes(tokens: ClientTokens | SandboxTokens) -> list[BaseRoute]:
    """The managed-identity endpoint, over plain http."""
    return [call("GET", "/msi/token", tokens.get)]


class Needing(Route):
    """A route that can say which role it needs; None is for the open ones, and for those of sandboxes."""

    def __init__(self, path: str, endpoint: Any, method: str, needs: Role | None) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.needs = needs


def call(method: str, path: str, handler: Any, needs: Role | None = None) -> Needing:
    """A handler of a request that returns a reply, for callers with the role that it needs."""
    return Needing(path, handler if needs is None else _checked(handler, needs), method, needs)


def raw(method: str, path: str, handler: Any, needs: Role | None = None) -> Needing:
    """A handler that speaks ASGI itself, since it streams."""
    return Needing(path, _Raw(handler, needs), method, needs)


class NeedingSocket(WebSocketRoute):
    """A route of WebSockets that can say which role it needs."""

    def __init__(self, path: str, endpoint: Any, needs: Role) -> None:
        super().__init__(path, endpoint)
        self.needs = needs


def socket(path: str, handler: Any, needs: Role) -> NeedingSocket:
    """A handler of WebSockets, which speaks ASGI itself."""
    return NeedingSocket(path, _Raw(handler, needs), needs)


def _checked(
    handler: Callable[[Request], Awaitable[Response]], needs: Role
) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        require(request.scope["cupola.caller"], needs)
        return await handler(request)

    return checked


def require(caller: Caller, needs: Role) -> None:
    """Raises Forbidden unless the caller's role covers what is needed."""
    if not caller.role.covers(needs):
        raise Forbidden(
            f"'{caller.principal}' has the role '{caller.role}'{_acting(caller)}, and this needs '{needs}'. "
            + _how_to_get(needs, caller)
        )


def _acting(caller: Caller) -> str:
    return "" if caller.user_from is UserFrom.TOKEN else f" while it acts for a user ({caller.user_from})"


def _how_to_get(needs: Role, caller: Caller) -> str:
    if caller.issuer is None:
        return f"An operator can make a token with more: cupola tokens create --role {needs}."
    return f"Let an administrator of {caller.issuer} assign Cupola.{needs.title()}, or its operator set oidc_roles."


class _Raw:
    """Keeps Starlette from taking a bound coroutine for a handler of requests."""

    def __init__(self, app: ASGIApp, needs: Role | None) -> None:
        self._app = app
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._needs is not None:
            require(scope["cupola.caller"], self._needs)
        await self._app(scope, receive, send)


class _Spelled(Needing):
    """A route whose last part is known by other spellings, in any case: documents and tools differ in it."""

    def __init__(self, method: str, base: str, name: str, spellings: str, handler: Any, needs: Role) -> None:
        super().__init__(f"{base}/{name}", _Raw(handler, needs), method, needs)
        self.path_regex = re.compile(self.path_regex.pattern.replace(f"/{name}$", f"/(?i:{spellings})$"))


_LATER = frozenset(
    {
        "agent_insight_monitors",
        "agent_optimization_jobs",
        "agents",
        "checkpoints",
        "connections",
        "data_generation_jobs",
        "datasets",
        "deployments",
        "evaluationrules",
        "evaluations",
        "evaluationtaxonomies",
        "evaluator_generation_jobs",
        "evaluators",
        "indexes",
        "insights",
        "mcp_tools",
        "memory_stores",
        "models",
        "redTeams",
        "routines",
        "schedules",
        "skills",
        "storage",
        "tasks",
        "toolboxes",
        "voice_agents",
    }
)
"""First parts of addresses that the wire has: what is not served there is known, and said so."""


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """What no route matches: 501 with a sentence where the wire has such an operation, else 404."""
    path, method = scope["path"], scope.get("method", "WebSocket")
    parts = path.split("/")
    if len(parts) > 4 and parts[1] == "api" and (parts[4].partition(":")[0] in _LATER or "openai" in parts):
        raise NotServed(f"Cupola does not serve {method} {path} (yet).")
    raise NotFound(
        f"The requested action '{method} {path}' is not supported: there is no such address. "
        "Project endpoints have the form https://localhost:8443/api/projects/<project>.",
        code="UnsupportedAction",
    )
