"""The one table that turns our errors into HTTP, and the outermost wrapper that applies it.

The body is Foundry's envelope (control-plane.md §1.3). Errors with a status that clients would retry by themselves
say so or forbid it in `x-should-retry`; none carries `Retry-After`, which makes azure-core retry any status.
What is not one of our errors is logged in full and shown as a request id.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupola import errors
from cupola.ids import new_request_id
from cupola.sessions import is_session_id

log = structlog.get_logger()

STATUS: Mapping[type[errors.CupolaError], int] = {
    errors.BadRequest: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.PayloadTooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    errors.SessionNotReady: 424,
    errors.StartFailed: 424,
    errors.QuotaExceeded: 429,
    errors.NotServed: 501,
    errors.SandboxLost: 502,
    errors.DriverUnavailable: 503,
    errors.IssuerUnavailable: 503,
    errors.SetupError: 503,
}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""`error.type` by status; other statuses below 500 are `invalid_request_error`."""

_DETAILS_HEADER = {
    errors.SessionNotReady: b"ReadinessTimeout",
    errors.SandboxLost: b"SandboxNotFound",
    errors.QuotaExceeded: b"QuotaExceeded",
}
"""Values of `x-adc-response-details` (control-plane.md §4.3), which azd prints."""

_NO_RETRY = frozenset({404, 409, 424, 429, 501, 503})
"""Statuses that the OpenAI client would repeat although the answer would be the same."""

_PASSING = (errors.DriverUnavailable, errors.IssuerUnavailable)
"""What is away comes back: an engine that starts again, an issuer behind a network."""


def status_of(error: errors.CupolaError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def _type_of(status: int) -> str:
    return "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")


def envelope(error: errors.CupolaError, request_id: str) -> dict[str, Any]:
    """`{"error": {...}}` as every client of the wire reads it."""
    made = envelope_of(status_of(error), error.code, error.message, request_id)
    made["error"]["param"] = error.param
    made["error"]["details"] = [dict(detail) for detail in error.details]
    made["error"]["additionalInfo"].update(error.extra)
    return made


def envelope_of(status: int, code: str, message: str, request_id: str) -> dict[str, Any]:
    """The envelope around a status that is not one of our errors: a container's."""
    return {
        "error": {
            "code": code,
            "message": message,
            "param": None,
            "type": _type_of(status),
            "details": [],
            "additionalInfo": {"request_id": request_id},
        }
    }


class ErrorEdge:
    """Gives every request its id, every reply the headers that name request and session, and every error its HTTP form.

    The session is what a handler has left in `cupola.session_id`, or an error names; else the one in the path.
    A failure after the reply has begun can only end the connection; it is logged. A WebSocket that is not accepted
    yet gets the same replies, by ASGI's extension for them; one that is open is closed with 1011.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _inbound_request_id(scope) or new_request_id()
        scope["cupola.request_id"] = request_id
        scope["app"] = self  # makes Starlette raise its 405 instead of answering in plain text
        begun = False

        async def tagged(message: Message) -> None:
            nonlocal begun
            if message["type"] in BEGINNINGS:
                begun = True
                encoded = request_id.encode("latin-1")
                headers = [*message.get("headers", ()), (b"x-request-id", encoded), (b"apim-request-id", encoded)]
                session = scope.get("cupola.session_id") or _session_in_path(scope)
                if session is not None:
                    headers.append((b"x-agent-session-id", session.encode()))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except errors.CupolaError as error:
            if begun:
                log.warning("reply broken off", code=error.code, message=error.message, request_id=request_id)
                await _break_off(scope, send)
                raise
            await _send_error(error, scope, request_id, tagged)
        except HTTPException as error:
            if not begun:
                await _send_error(_of_framework(error, scope), scope, request_id, tagged)
        except Exception:
            log.exception("request failed", request_id=request_id, path=scope["path"])
            if begun:
                await _break_off(scope, send)
                raise
            hidden = errors.CupolaError(
                f"Cupola failed while it served this request. Its log has the reason under request id {request_id}.",
                code="internal_error",
            )
            await _send_error(hidden, scope, request_id, tagged)


BEGINNINGS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""Messages that hold the head of a reply."""
_DENIAL = "websocket.http.response"
"""ASGI's extension by which a WebSocket is refused with a reply of HTTP."""


async def refuse(scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Answers a request, or refuses a WebSocket: with 403 and no body if the server knows nothing better."""
    kind = "http.response"
    if scope["type"] == "websocket":
        if _DENIAL not in scope.get("extensions", {}):
            await send({"type": "websocket.close"})
            return
        kind = _DENIAL
    length = (b"content-length", str(len(body)).encode())
    await send({"type": f"{kind}.start", "status": status, "headers": [*headers, length]})
    await send({"type": f"{kind}.body", "body": body})


async def _break_off(scope: Scope, send: Send) -> None:
    """Ends a WebSocket in words; of a reply that has begun nothing can be taken back."""
    if scope["type"] == "websocket":
        with contextlib.suppress(OSError, RuntimeError):  # the caller has left, or it is closed already
            await send({"type": "websocket.close", "code": 1011, "reason": "Cupola failed; its log says why."})


def _session_in_path(scope: Scope) -> str | None:
    named = scope.get("path_params", {}).get("session")
    return named if isinstance(named, str) and is_session_id(named) else None


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")


def _inbound_request_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return None


def _of_framework(error: HTTPException, scope: Scope) -> errors.CupolaError:
    wrapped: errors.CupolaError
    if error.status_code == 405:
        wrapped = MethodNotAllowed(
            f"The requested action '{scope['method']} {scope['path']}' is not supported: "
            f"this address takes {_methods_at(scope) or 'other methods'}.",
            code="UnsupportedAction",
        )
        return wrapped
    return errors.BadRequest(str(error.detail))


def _methods_at(scope: Scope) -> str:
    """The methods that the address takes; the framework knows only those of the first route that has it."""
    known = scope["router"].routes if "router" in scope else ()
    fitting = [route for route in known if isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


class MethodNotAllowed(errors.CupolaError):
    """The address exists, with other methods."""


STATUS = {**STATUS, MethodNotAllowed: 405}


async def _send_error(error: errors.CupolaError, scope: Scope, request_id: str, send: Send) -> None:
    status = status_of(error)
    headers = MutableHeaders(raw=[])
    headers["content-type"] = "application/json"
    if isinstance(error, _PASSING):
        headers["x-should-retry"] = "true"
    elif status in _NO_RETRY:
        headers["x-should-retry"] = "false"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    details = _DETAILS_HEADER.get(type(error))
    if details is not None:
        headers["x-adc-response-details"] = details.decode()
    if isinstance(error, errors.PreconditionFailed) and error.etag is not None:
        headers["etag"] = error.etag
    if isinstance(error, errors.RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    if scope.get("cupola.session_id") is None:
        scope["cupola.session_id"] = error.extra.get("agent_session_id")
    await refuse(scope, send, status, headers.raw, orjson.dumps(envelope(error, request_id)))
