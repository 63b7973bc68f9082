"""What the protocols share that name their session in the query and leave their bodies alone.

Invocations and activity carry one request to one path of the container and know nothing of its body. Body fields and
headers of similar names pass through untouched (control-plane.md §2.8).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote_plus

from starlette.types import Receive, Scope, Send

from cupola.gateway.carry import Carrier
from cupola.gateway.headers import Header
from cupola.gateway.leaving import caller_body
from cupola.gateway.resolve import Resolver
from cupola.gateway.upstream import Body
from cupola.sandboxes.live import LiveSandbox
from cupola.sessions import is_session_id

_SESSION = re.compile(rb"(?:^|&)agent_session_id=([^&]*)")
_FOR_GATEWAY = (b"api-version=", b"agent_session_id=")

OnLive = Callable[[LiveSandbox], None]


class Passage:
    """From a caller to the container's path and back."""

    def __init__(self, resolver: Resolver, carrier: Carrier) -> None:
        self._resolver = resolver
        self._carrier = carrier

    async def take(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        protocol: str,
        path: str,
        session_id: str | None,
        headers: tuple[Header, ...] = (),
        reply_headers: tuple[Header, ...] = (),
        on_live: OnLive | None = None,
    ) -> None:
        """One request; `headers` are told to the container, `reply_headers` to the caller.

        `on_live` sees the sandbox before the request goes there. Raises what `Resolver.sandbox` does.
        """
        parameters = scope["path_params"]
        caller = scope["cupola.caller"]

        async def find(session: str | None = session_id) -> LiveSandbox:
            return await self._resolver.sandbox(
                parameters["project"], parameters["agent"], caller, session_id=session, protocol=protocol
            )

        live = await find()
        body = await _body(scope, receive)
        if body is None:
            return
        if on_live is not None:
            on_live(live)
        serving = live.row.session_id
        await self._carrier.carry(
            live,
            lambda: find(serving),
            method=scope["method"],
            target=target(path, scope, serving),
            headers=[*self._carrier.headers(scope, live, caller, protocol), *headers],
            body=body,
            scope=scope,
            receive=receive,
            send=send,
            reply_headers=list(reply_headers),
        )


def named_session(scope: Scope) -> str | None:
    """The session that the query names; the reply names it too, whatever becomes of the request."""
    match = _SESSION.search(scope["query_string"])
    if match is None:
        return None
    named = unquote_plus(match[1].decode("latin-1")) or None
    if named is not None and is_session_id(named):
        scope["cupola.session_id"] = named
    return named


def others(scope: Scope) -> list[bytes]:
    """The parameters of the query that are not meant for the gateway, as they came."""
    query: bytes = scope["query_string"]
    return [part for part in query.split(b"&") if part and not part.startswith(_FOR_GATEWAY)]


def target(path: str, scope: Scope, session_id: str) -> bytes:
    """The container's path with the caller's other parameters and the session that serves it."""
    return path.encode() + b"?" + b"&".join([*others(scope), b"agent_session_id=" + session_id.encode()])


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
