"""Errors on the wire: statuses, the envelope, and what is not shown."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupola import errors
from cupola.web.errors import STATUS, ErrorEdge, envelope, status_of
from tests.support.platform import PROJECT, Answer, Caller, PlatformUnderTest

WITHOUT_STATUS = {errors.CupolaError}
"""The root, which stands for what has no better name: 500."""


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return ErrorEdge(app)


async def answer_to(error: Exception) -> Answer:
    return await Caller(raising(error), None)("GET", "/x")


def test_every_error_has_a_status() -> None:
    """Whoever adds a class to the tree gives it a line in the table."""
    tree = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.CupolaError)
    } - WITHOUT_STATUS
    assert tree <= set(STATUS)


def test_a_subclass_has_the_status_of_its_parent() -> None:
    """What is derived elsewhere needs no line of its own."""

    class Special(errors.NotFound):
        pass

    assert status_of(Special("x")) == 404
    assert status_of(errors.CupolaError("x")) == 500


def test_the_envelope() -> None:
    """All fields that some client reads."""
    error = errors.BadRequest("m", param="p", details=[{"code": "c", "message": "d"}], extra={"phase": "pull"})
    assert envelope(error, "r1") == {
        "error": {
            "code": "bad_request",
            "message": "m",
            "param": "p",
            "type": "invalid_request_error",
            "details": [{"code": "c", "message": "d"}],
            "additionalInfo": {"request_id": "r1", "phase": "pull"},
        }
    }


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (errors.BadRequest("x"), 400, "invalid_request_error", None),
        (errors.Unauthenticated("x"), 401, "authentication_error", None),
        (errors.Forbidden("x"), 403, "permission_error", None),
        (errors.NotFound("x"), 404, "invalid_request_error", "false"),
        (errors.Conflict("x"), 409, "invalid_request_error", "false"),
        (errors.SessionNotReady("x"), 424, "invalid_request_error", "false"),
        (errors.QuotaExceeded("x"), 429, "rate_limit_error", "false"),
        (errors.NotServed("x"), 501, "server_error", "false"),
        (errors.SandboxLost("x"), 502, "server_error", None),
        (errors.DriverUnavailable("x"), 503, "server_error", "true"),
        (errors.IssuerUnavailable("x"), 503, "server_error", "true"),
        (errors.SetupError("x", code="storage_full"), 503, "server_error", "false"),
    ],
)
async def test_clients_are_told_whether_to_try_again(
    error: errors.CupolaError, status: int, kind: str, retry: str | None
) -> None:
    """`x-should-retry` forbids what would end the same way, or would be done twice; `Retry-After` is never sent."""
    answer = await answer_to(error)
    assert answer.status == status
    assert answer.error["type"] == kind
    assert answer.headers.get("x-should-retry") == retry
    assert "retry-after" not in answer.headers


async def test_a_401_challenges() -> None:
    """azure-core asks for a new token then."""
    answer = await answer_to(errors.Unauthenticated("x"))
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_azds_header() -> None:
    """The machine's word for a failed invocation."""
    answer = await answer_to(errors.SessionNotReady("x"))
    assert answer.headers["x-adc-response-details"] == "ReadinessTimeout"


async def test_a_request_id_is_kept_or_made() -> None:
    """The caller's own comes back; an odd one is replaced."""
    app = raising(errors.NotFound("x"))
    kept = await Caller(app, None)("GET", "/x", headers={"x-request-id": "mine-1"})
    assert kept.headers["x-request-id"] == kept.headers["apim-request-id"] == "mine-1"
    assert kept.error["additionalInfo"]["request_id"] == "mine-1"
    for odd in ("a b", "", "x" * 129, "ä"):
        made = await Caller(app, None)("GET", "/x", headers={"x-request-id": odd})
        assert made.headers["x-request-id"] not in ("", odd)


async def test_an_internal_error_shows_nothing() -> None:
    """Only the request id, under which the log has the traceback."""
    answer = await answer_to(RuntimeError("password=hunter2"))
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert b"RuntimeError" not in answer.body
    assert answer.error["code"] == "internal_error"
    assert answer.headers["x-request-id"] in answer.error["message"]


async def test_a_failure_after_the_reply_has_begun_breaks_it_off() -> None:
    """Nothing is appended to what the caller already has."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise errors.SandboxLost("gone")

    with pytest.raises(errors.SandboxLost):
        await Caller(ErrorEdge(app), None)("GET", "/x")


async def test_the_frameworks_errors_have_the_envelope_too() -> None:
    """Starlette's own refusals come in the same shape."""
    answer = await answer_to(HTTPException(400, "Too many parts"))
    assert answer.status == 400
    assert "Too many parts" in answer.error["message"]


async def test_an_unknown_address(platform: PlatformUnderTest) -> None:
    """404 with the form of the right address."""
    answer = await platform.call("GET", "/nothing/here")
    assert answer.status == 404
    assert answer.error["code"] == "UnsupportedAction"
    assert "/api/projects/" in answer.error["message"]


async def test_a_wrong_method(platform: PlatformUnderTest) -> None:
    """405 in the envelope, with the methods that there are."""
    answer = await platform.call("PUT", f"{PROJECT}/agents")
    assert answer.status == 405
    assert "PUT" in answer.error["message"]


@pytest.mark.parametrize(
    "path",
    [
        f"{PROJECT}/connections",
        f"{PROJECT}/toolboxes/t/versions",
        f"{PROJECT}/openai/v1/files",
        f"{PROJECT}/agents/a1/import",
        f"{PROJECT}/agents:generate",
    ],
)
async def test_what_the_wire_has_and_cupola_does_not(platform: PlatformUnderTest, path: str) -> None:
    """501 with a sentence, so that nobody searches for a mistake of theirs."""
    answer = await platform.call("GET", path)
    assert answer.status == 501
    assert answer.error["code"] == "not_implemented"
    assert path in answer.error["message"]


@pytest.mark.operation("cupola.health")
async def test_no_token(platform: PlatformUnderTest) -> None:
    """Everything but the health check needs one."""
    nobody = Caller(platform.platform.clients, None)
    assert (await nobody("GET", f"{PROJECT}/agents")).status == 401
    assert (await nobody("GET", "/cupola/status")).status == 401
    assert (await nobody("GET", "/cupola/health")).json() == {"status": "healthy"}


async def test_bodies_that_are_no_objects(platform: PlatformUnderTest) -> None:
    """400, saying what was wrong."""
    path = f"{PROJECT}/agents/a1/versions"
    for raw in (b"{", b"[]", b'"x"', b"\xff"):
        answer = await platform.call("POST", path, raw=raw)
        assert answer.status == 400
        assert answer.error["code"] == "invalid_payload"


# WebSockets


async def refused(app: ASGIApp, extensions: Mapping[str, Any]) -> list[Message]:
    """What an ASGI server is told when a WebSocket meets `app`."""
    told: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        told.append(message)

    scope = {"type": "websocket", "path": "/x", "headers": [], "extensions": extensions}
    with contextlib.suppress(errors.CupolaError, RuntimeError):
        await app(scope, receive, send)
    return told


@pytest.mark.parametrize(
    ("error", "status"), [(errors.Unauthenticated("x"), 401), (errors.NotFound("x"), 404), (RuntimeError("x"), 500)]
)
async def test_a_websocket_is_refused_with_a_reply(error: Exception, status: int) -> None:
    """Status, headers and envelope are those of a request."""
    start, body = await refused(raising(error), {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert body["type"] == "websocket.http.response.body"
    headers = dict(start["headers"])
    assert int(headers[b"content-length"]) == len(body["body"])
    shown = orjson.loads(body["body"])["error"]
    assert shown["additionalInfo"]["request_id"].encode() == headers[b"x-request-id"]


async def test_a_server_that_cannot_refuse_with_a_reply() -> None:
    """The WebSocket is closed before it was open, which servers show as 403."""
    assert await refused(raising(errors.NotFound("x")), {}) == [{"type": "websocket.close"}]


@pytest.mark.parametrize("error", [errors.SandboxLost("x"), RuntimeError("x")])
async def test_a_failure_in_an_open_websocket(error: Exception) -> None:
    """The caller is told 1011, and the server sees the failure."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise error

    accepted, closed = await refused(ErrorEdge(app), {"websocket.http.response": {}})
    assert dict(accepted["headers"])[b"x-request-id"]
    assert (closed["type"], closed["code"]) == ("websocket.close", 1011)


async def test_a_wrong_method_is_told_all_right_ones(platform: PlatformUnderTest) -> None:
    """Not only those of the first route that has the address."""
    answer = await platform.call("PUT", f"{PROJECT}/agents")
    assert (answer.status, answer.error["code"]) == (405, "UnsupportedAction")
    assert answer.error["message"].endswith("this address takes GET, HEAD, POST.")
