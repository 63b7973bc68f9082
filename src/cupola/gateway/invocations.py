"""The invocations protocol: any body, any reply, one session per `agent_session_id` in the query.

Body fields and headers of similar names pass through untouched (control-plane.md §2.8, container-contract.md §3.3).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from urllib.parse import quote, unquote_plus

from starlette.types import Receive, Scope, Send

from cupola.errors import BadRequest, NotFound
from cupola.gateway.carry import Carrier
from cupola.gateway.proxy import caller_body
from cupola.gateway.resolve import Resolver
from cupola.gateway.upstream import Body
from cupola.ids import new_invocation_id
from cupola.sandboxes.live import LiveSandbox

_REMEMBERED = 10_000
_InvocationKey = tuple[str, str, str]
"""Project, agent, invocation id."""
_SESSION = re.compile(rb"(?:^|&)agent_session_id=([^&]*)")
_FOR_GATEWAY = (b"api-version=", b"agent_session_id=")


class Invocations:
    """ASGI endpoints of `/agents/{agent}/endpoint/protocols/invocations…`."""

    def __init__(self, resolver: Resolver, carrier: Carrier) -> None:
        self._resolver = resolver
        self._carrier = carrier
        self._sessions: OrderedDict[_InvocationKey, str] = OrderedDict()

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST invocations`."""
        await self._pass(scope, receive, send, "/invocations", invocation_id=new_invocation_id())

    async def poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET invocations/{id}`."""
        await self._pass_known(scope, receive, send, "")

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST invocations/{id}/cancel`."""
        await self._pass_known(scope, receive, send, "/cancel")

    async def document(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET invocations/docs/{document}`: the agent's own OpenAPI or AsyncAPI document."""
        await self._pass(scope, receive, send, f"/invocations/docs/{quote(scope['path_params']['document'])}")

    async def _pass_known(self, scope: Scope, receive: Receive, send: Send, suffix: str) -> None:
        invocation_id = scope["path_params"]["invocation"]
        session_id = self._sessions.get(_key_of(scope, invocation_id))
        if session_id is None and not _session_of(scope):
            raise NotFound(
                f"Invocation '{invocation_id}' is not known here; name its session in the query: agent_session_id=…",
                param="agent_session_id",
            )
        path = f"/invocations/{quote(invocation_id, safe='')}{suffix}"
        await self._pass(scope, receive, send, path, invocation_id=invocation_id, session_id=session_id)

    async def _pass(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: str,
        *,
        invocation_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        parameters = scope["path_params"]
        caller = scope["cupola.caller"]
        session_id = _session_of(scope) or session_id

        async def find(session: str | None = session_id) -> LiveSandbox:
            return await self._resolver.sandbox(parameters["project"], parameters["agent"], caller, session_id=session)

        live = await find()
        if live.version.definition.protocol("invocations") is None:
            raise BadRequest(
                f"Agent '{live.row.agent}' does not speak the invocations protocol; its definition declares "
                f"{', '.join(p.protocol for p in live.version.definition.protocols)}.",
            )
        body = await _body(scope, receive)
        if body is None:
            return
        serving = live.row.session_id
        headers = self._carrier.headers(scope, live, caller, "invocations")
        reply_headers = []
        if invocation_id is not None:
            headers.append((b"x-agent-invocation-id", invocation_id.encode()))
            reply_headers.append((b"x-agent-invocation-id", invocation_id.encode()))
            self._remember(_key_of(scope, invocation_id), serving)
        await self._carrier.carry(
            live,
            lambda: find(serving),
            method=scope["method"],
            target=path.encode() + b"?" + _query(scope, serving),
            headers=headers,
            body=body,
            scope=scope,
            receive=receive,
            send=send,
            reply_headers=reply_headers,
        )

    def _remember(self, key: _InvocationKey, session_id: str) -> None:
        self._sessions[key] = session_id
        if len(self._sessions) > _REMEMBERED:
            self._sessions.popitem(last=False)


def _key_of(scope: Scope, invocation_id: str) -> _InvocationKey:
    return (scope["path_params"]["project"], scope["path_params"]["agent"], invocation_id)


def _session_of(scope: Scope) -> str | None:
    match = _SESSION.search(scope["query_string"])
    return unquote_plus(match[1].decode("latin-1")) or None if match is not None else None


def _query(scope: Scope, session_id: str) -> bytes:
    """The caller's query as it came, without what was meant for the gateway, with the session that serves it."""
    query: bytes = scope["query_string"]
    kept = [part for part in query.split(b"&") if part and not part.startswith(_FOR_GATEWAY)]
    return b"&".join([*kept, b"agent_session_id=" + session_id.encode()])


async def _body(scope: Scope, receive: Receive) -> Body | None:
    """The whole body if it came at once (it can be sent again then), else what has come and the rest as it comes.

    None when the caller has left meanwhile.
    """
    if scope["method"] == "GET":
        return b""
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    return _joined(message.get("body", b""), receive)


async def _joined(first: bytes, receive: Receive) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in caller_body(receive):
        yield chunk
