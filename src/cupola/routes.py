"""Every URL of the platform, on one screen. The data plane comes first: it is asked most.

`…/openai` and `…/openai/v1` are the two base layouts of the clients (control-plane.md §1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cupola.api.agents import Agents
from cupola.api.health import Health
from cupola.api.versions import Versions
from cupola.callbacks.storage import Storage
from cupola.callbacks.tokens import ClientTokens, SandboxTokens
from cupola.errors import NotFound, NotServed
from cupola.gateway.conversations import Conversations
from cupola.gateway.invocations import Invocations
from cupola.gateway.responses import Responses

PROJECT = "/api/projects/{project}"
AGENT = PROJECT + "/agents/{agent}"
PROTOCOLS = AGENT + "/endpoint/protocols"
OPEN = frozenset({"/cupola/health"})
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
    responses: Responses
    conversations: Conversations
    invocations: Invocations
    health: Health


def client_routes(to: Handlers) -> list[BaseRoute]:
    """What clients reach, with a client's token (all but `/cupola/health`)."""
    return [
        raw("POST", PROTOCOLS + "/invocations", to.invocations.create),
        raw("GET", PROTOCOLS + "/invocations/docs/{document}", to.invocations.document),
        raw("GET", PROTOCOLS + "/invocations/{invocation}", to.invocations.poll),
        raw("POST", PROTOCOLS + "/invocations/{invocation}/cancel", to.invocations.cancel),
        *(route for base in OPENAI_BASES for route in _openai_routes(base, to)),
        call("GET", PROJECT + "/agents", to.agents.list),
        call("POST", PROJECT + "/agents", to.agents.create),
        call("GET", AGENT + "/versions", to.versions.list),
        call("POST", AGENT + "/versions", to.versions.create),
        call("GET", AGENT + "/versions/{version}", to.versions.get),
        call("DELETE", AGENT + "/versions/{version}", to.versions.delete),
        call("GET", AGENT + "/code:download", to.versions.download),
        call("POST", AGENT + ":enable", to.agents.enable),
        call("POST", AGENT + ":disable", to.agents.disable),
        call("GET", AGENT, to.agents.get),
        call("POST", AGENT, to.agents.update),
        call("PATCH", AGENT, to.agents.configure),
        call("DELETE", AGENT, to.agents.delete),
        call("GET", "/cupola/health", to.health.health),
        call("GET", "/cupola/status", to.health.status),
    ]


def _openai_routes(base: str, to: Handlers) -> list[BaseRoute]:
    return [
        raw("POST", base + "/responses", to.responses.create),
        raw("GET", base + "/responses/{response}", to.responses.retrieve),
        raw("POST", base + "/responses/{response}/cancel", to.responses.cancel),
        call("DELETE", base + "/responses/{response}", to.responses.delete),
        call("GET", base + "/responses/{response}/input_items", to.responses.input_items),
        call("POST", base + "/conversations", to.conversations.create),
        call("GET", base + "/conversations/{conversation}", to.conversations.get),
        call("POST", base + "/conversations/{conversation}", to.conversations.update),
        call("DELETE", base + "/conversations/{conversation}", to.conversations.delete),
        call("GET", base + "/conversations/{conversation}/items", to.conversations.list_items),
        call("POST", base + "/conversations/{conversation}/items", to.conversations.add_items),
        call("GET", base + "/conversations/{conversation}/items/{item}", to.conversations.get_item),
        call("DELETE", base + "/conversations/{conversation}/items/{item}", to.conversations.delete_item),
    ]


def callback_routes(storage: Storage) -> list[BaseRoute]:
    """What sandboxes reach over https, with their own token."""
    return [
        call("POST", PROJECT + "/storage/responses", storage.create),
        call("GET", PROJECT + "/storage/responses/{response}", storage.get),
        call("POST", PROJECT + "/storage/responses/{response}", storage.update),
        call("DELETE", PROJECT + "/storage/responses/{response}", storage.delete),
        call("GET", PROJECT + "/storage/responses/{response}/input_items", storage.input_items),
        call("GET", PROJECT + "/storage/history/item_ids", storage.history),
        call("POST", PROJECT + "/storage/items/batch/retrieve", storage.items),
    ]


def token_routes(tokens: ClientTokens | SandboxTokens) -> list[BaseRoute]:
    """The managed-identity endpoint, over plain http."""
    return [call("GET", "/msi/token", tokens.get)]


def call(method: str, path: str, handler: Any) -> BaseRoute:
    """A handler of a request that returns a reply."""
    return Route(path, handler, methods=[method])


def raw(method: str, path: str, handler: Any) -> BaseRoute:
    """A handler that speaks ASGI itself, since it streams."""
    return Route(path, _Raw(handler), methods=[method])


class _Raw:
    """Keeps Starlette from taking a bound coroutine for a handler of requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


_LATER = ("connections", "deployments", "toolboxes", "skills", "memory_stores", "indexes", "datasets", "evaluations")


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """What no route matches: 501 with a sentence where the wire has such an operation, else 404."""
    path = scope["path"]
    parts = path.split("/")
    if len(parts) > 4 and parts[1] == "api" and (parts[4] in _LATER or "openai" in parts or "agents" in parts):
        raise NotServed(f"Cupola does not serve {scope['method']} {path} (yet).")
    raise NotFound(
        f"The requested action '{scope['method']} {path}' is not supported: there is no such address. "
        "Project endpoints have the form https://localhost:8443/api/projects/<project>.",
        code="UnsupportedAction",
    )
