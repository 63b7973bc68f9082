"""The invocations protocol: any body, any reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform

BASE = f"{PROJECT}/agents/a1/endpoint/protocols/invocations"


def asked_of(platform: PlatformUnderTest) -> list[Request]:
    """What the sandboxes were asked, but for their readiness."""
    return [
        request
        for sandbox in platform.place.sandboxes.values()
        for request in sandbox.requests
        if request.path != "/readiness"
    ]


def query_of(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.path).query)


@pytest.mark.operation("invocations.create")
async def test_any_bytes_there_and_back(platform: PlatformUnderTest) -> None:
    """Body and content type pass untouched; session and invocation are named in headers."""
    await platform.create_version()
    raw = b"\x00\xff not json"
    answer = await platform.call("POST", f"{BASE}?api-version=v1", raw=raw, headers={"content-type": "x/y"})
    assert (answer.status, answer.body) == (200, raw)
    (request,) = asked_of(platform)
    assert urlsplit(request.path).path == "/invocations"
    assert request.headers["content-type"] == "x/y"
    session = answer.headers["x-agent-session-id"]
    assert query_of(request) == {"agent_session_id": [session]}
    assert request.headers["x-agent-invocation-id"] == answer.headers["x-agent-invocation-id"]


async def test_only_the_query_names_a_session(platform: PlatformUnderTest) -> None:
    """Body fields and headers of that name pass through; other parameters reach the container."""
    await platform.create_version()
    body = {"agent_session_id": "from-the-body"}
    answer = await platform.call("POST", BASE, body, headers={"x-agent-session-id": "from-a-header"})
    assert answer.json() == body
    assert answer.headers["x-agent-session-id"] not in ("from-the-body", "from-a-header")
    named = await platform.call("POST", f"{BASE}?agent_session_id=mine&mode=a%20b&api-version=v1", {})
    assert named.headers["x-agent-session-id"] == "mine"
    assert query_of(asked_of(platform)[-1]) == {"mode": ["a b"], "agent_session_id": ["mine"]}
    again = await platform.call("POST", f"{BASE}?agent_session_id=mine", {})
    assert again.headers["x-agent-session-id"] == "mine"
    assert platform.place.starts["mine"] == 1


async def test_another_callers_session(platform: PlatformUnderTest) -> None:
    """403 here as well."""
    await platform.create_version()
    await platform.call("POST", f"{BASE}?agent_session_id=mine", {})
    answer = await platform.caller("other")("POST", f"{BASE}?agent_session_id=mine", {})
    assert (answer.status, answer.error["code"]) == (403, "session_not_accessible")


@pytest.mark.operation("invocations.get", "invocations.cancel")
async def test_poll_and_cancel_find_their_session(platform: PlatformUnderTest) -> None:
    """By the invocation's id while it is known, else by the session in the query."""
    await platform.create_version()
    begun = await platform.call("POST", BASE, {})
    invocation = begun.headers["x-agent-invocation-id"]
    polled = await platform.call("GET", f"{BASE}/{invocation}")
    assert polled.status == 200
    assert urlsplit(asked_of(platform)[-1].path).path == f"/invocations/{invocation}"
    cancelled = await platform.call("POST", f"{BASE}/{invocation}/cancel")
    assert cancelled.headers["x-agent-session-id"] == begun.headers["x-agent-session-id"]
    assert urlsplit(asked_of(platform)[-1].path).path == f"/invocations/{invocation}/cancel"
    unknown = await platform.call("GET", f"{BASE}/unknown")
    assert (unknown.status, unknown.error["param"]) == (404, "agent_session_id")
    session = begun.headers["x-agent-session-id"]
    assert (await platform.call("GET", f"{BASE}/unknown?agent_session_id={session}")).status == 200


async def test_somebody_elses_invocation(platform: PlatformUnderTest) -> None:
    """Knowing its id opens nothing."""
    await platform.create_version()
    begun = await platform.call("POST", BASE, {})
    answer = await platform.caller("other")("GET", f"{BASE}/{begun.headers['x-agent-invocation-id']}")
    assert answer.status in (403, 404)


async def test_an_invocation_of_another_agent(platform: PlatformUnderTest) -> None:
    """An id is looked for among the agent's own: no session of its name begins elsewhere."""
    await platform.create_version()
    await platform.create_version("a2")
    begun = await platform.call("POST", BASE, {})
    elsewhere = BASE.replace("/a1/", "/a2/") + f"/{begun.headers['x-agent-invocation-id']}"
    assert (await platform.call("GET", elsewhere)).status == 404


@pytest.mark.operation("invocations.docs")
async def test_the_agents_own_document(platform: PlatformUnderTest) -> None:
    """`docs/openapi.json` is the container's."""
    await platform.create_version()
    assert (await platform.call("GET", f"{BASE}/docs/openapi.json")).status == 200
    assert urlsplit(asked_of(platform)[-1].path).path == "/invocations/docs/openapi.json"


async def test_the_agents_status_passes(tmp_path: Path) -> None:
    """202 with its own headers, as asynchronous invocations answer."""

    async def later(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(202, {"content-type": "application/json", "retry-after": "3"}, b'{"status":"running"}')

    async with open_platform(tmp_path, Behaviour(handler=later)) as platform:
        await platform.create_version()
        answer = await platform.call("POST", BASE, {})
        assert (answer.status, answer.json()) == (202, {"status": "running"})
        assert answer.headers["retry-after"] == "3"
        assert answer.headers["x-agent-invocation-id"]


async def test_replies_stream(tmp_path: Path) -> None:
    """The first piece is there before the second is written."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        await gate.wait()
        yield b"two"

    async def stream(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, {"content-type": "text/plain"}, pieces())

    async with open_platform(tmp_path, Behaviour(handler=stream)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.call("POST", BASE, {}, on_chunk=begun))
        await begun.wait()
        gate.set()
        assert (await asking).chunks == (b"one ", b"two")


async def test_a_dead_sandbox_is_replaced(platform: PlatformUnderTest) -> None:
    """The same promise as for responses."""
    await platform.create_version()
    session = (await platform.call("POST", BASE, {})).headers["x-agent-session-id"]
    platform.sandbox.exit(1)
    answer = await platform.call("POST", f"{BASE}?agent_session_id={session}", {"n": 1})
    assert (answer.status, answer.json()) == (200, {"n": 1})


@pytest.mark.parametrize("path", ["", "/docs/openapi.json"])
async def test_agents_that_speak_something_else(platform: PlatformUnderTest, path: str) -> None:
    """400, with what the agent speaks instead."""
    only = {**DEFINITION, "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}]}
    await platform.create_version("a1", only)
    answer = await platform.call("GET" if path else "POST", BASE + path, None)
    assert answer.status == 400
    assert "declares responses" in answer.error["message"]
