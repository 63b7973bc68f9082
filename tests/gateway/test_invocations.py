"""The invocations protocol: any body, any reply."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.gateway.invocations import KEPT_SECONDS
from cupola.sessions import Session
from cupola.store import sessions as session_rows
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

BASE = f"{PROJECT}/agents/a1/endpoint/protocols/invocations"


async def later(sandbox: FakeSandbox, request: Request) -> Reply:
    """An asynchronous agent: 202 with headers of its own."""
    return Reply(202, {"content-type": "application/json", "retry-after": "3"}, b'{"status":"running"}')


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    """A platform whose agent answers 202."""
    async with open_platform(tmp_path, Behaviour(handler=later)) as platform:
        await platform.create_version()
        yield platform


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


@pytest.mark.parametrize("query", ["", "?agent_session_id=mine", "?agent_session_id=theirs"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel")])
async def test_somebody_elses_invocation(platform: PlatformUnderTest, method: str, suffix: str, query: str) -> None:
    """Knowing its id opens nothing, whichever session is named: 404, and no container hears of it."""
    await platform.create_version()
    begun = await platform.call("POST", f"{BASE}?agent_session_id=mine", {})
    other = platform.caller("other")
    await other("POST", f"{BASE}?agent_session_id=theirs", {})
    before = asked_of(platform)
    answer = await other(method, f"{BASE}/{begun.headers['x-agent-invocation-id']}{suffix}{query}")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    unknown = await other(method, f"{BASE}/unknown{suffix}")
    assert unknown.error["message"].replace("unknown", "") == answer.error["message"].replace(
        begun.headers["x-agent-invocation-id"], ""
    )
    assert asked_of(platform) == before


async def test_another_session_of_the_same_caller(platform: PlatformUnderTest) -> None:
    """An invocation is looked for where it runs, and nowhere else."""
    await platform.create_version()
    begun = await platform.call("POST", f"{BASE}?agent_session_id=s1", {})
    await platform.call("POST", f"{BASE}?agent_session_id=s2", {})
    before = asked_of(platform)
    answer = await platform.call("GET", f"{BASE}/{begun.headers['x-agent-invocation-id']}?agent_session_id=s2")
    assert answer.status == 404
    assert asked_of(platform) == before


async def test_ids_of_callers_are_not_believed(platform: PlatformUnderTest) -> None:
    """The platform gives every invocation its id; the container hears that one only."""
    await platform.create_version()
    answer = await platform.call("POST", BASE, {}, headers={"x-agent-invocation-id": "forged"})
    given = answer.headers["x-agent-invocation-id"]
    assert given != "forged"
    assert asked_of(platform)[-1].headers["x-agent-invocation-id"] == given


async def test_a_restart_forgets_no_invocation(patient: PlatformUnderTest) -> None:
    """The id finds its session in the next process, and the caller is still told apart."""
    begun = await patient.call("POST", f"{BASE}?agent_session_id=s1", {})
    path = f"{BASE}/{begun.headers['x-agent-invocation-id']}"
    await patient.restart()
    polled = await patient.call("GET", path)
    assert (polled.status, polled.headers["x-agent-session-id"]) == (202, "s1")
    assert (await patient.caller("other")("GET", path)).status == 404


async def test_a_restart_forgets_no_stream(tmp_path: Path) -> None:
    """What is still speaking when its head goes out is kept as well: it can be cancelled."""
    gate, speaking = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await gate.wait()

    async def stream(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, {}, pieces() if request.path.startswith("/invocations?") else b"")

    async with open_platform(tmp_path, Behaviour(handler=stream)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.call("POST", BASE, {}, on_chunk=speaking))
        await speaking.wait()
        gate.set()
        begun = await asking
        await platform.restart()
        cancelled = await platform.call("POST", f"{BASE}/{begun.headers['x-agent-invocation-id']}/cancel")
        assert cancelled.status == 200
        assert cancelled.headers["x-agent-session-id"] == begun.headers["x-agent-session-id"]


async def test_whole_answers_are_not_stored(platform: PlatformUnderTest) -> None:
    """They end their invocation: after a restart its session has to be named."""
    await platform.create_version()
    begun = await platform.call("POST", f"{BASE}?agent_session_id=s1", {})
    path = f"{BASE}/{begun.headers['x-agent-invocation-id']}"
    assert (await platform.call("GET", path)).status == 200
    await platform.restart()
    assert (await platform.call("GET", path)).error["param"] == "agent_session_id"
    assert (await platform.call("GET", f"{path}?agent_session_id=s1")).status == 200


async def test_an_id_is_stored_before_it_is_told(patient: PlatformUnderTest) -> None:
    """However quickly the container answers, the caller waits for the store."""
    await patient.call("POST", f"{BASE}?agent_session_id=s1", {})
    before = len(asked_of(patient))
    gate = threading.Event()
    holding = asyncio.ensure_future(patient.store.write(lambda conn: gate.wait(10)))
    asking = asyncio.create_task(patient.call("POST", f"{BASE}?agent_session_id=s1", {}))
    await wait_until(lambda: len(asked_of(patient)) > before)
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    gate.set()
    assert await holding
    assert (await asking).status == 202


async def test_polling_wakes_a_session(platform: PlatformUnderTest) -> None:
    """Its sandbox has been stopped meanwhile: another one is started with the same files."""
    await platform.create_version()
    begun = await platform.call("POST", f"{BASE}?agent_session_id=s1", {})
    live = platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
    assert live is not None
    await platform.platform.sandboxes.stops.stop(live, "idle")
    polled = await platform.call("GET", f"{BASE}/{begun.headers['x-agent-invocation-id']}")
    assert (polled.status, polled.headers["x-agent-session-id"]) == (200, "s1")
    assert platform.place.starts["s1"] == 2


async def test_polling_begins_no_session(platform: PlatformUnderTest) -> None:
    """Neither one that never was, nor one that was deleted."""
    await platform.create_version()
    never = await platform.call("GET", f"{BASE}/some?agent_session_id=never")
    assert (never.status, never.error["param"]) == (404, "agent_session_id")
    begun = await platform.call("POST", f"{BASE}?agent_session_id=s1", {})
    session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s1"))
    assert isinstance(session, Session)
    await platform.platform.sandboxes.delete_session(session)
    polled = await platform.call("GET", f"{BASE}/{begun.headers['x-agent-invocation-id']}")
    assert (polled.status, polled.error["param"]) == (404, "agent_session_id")
    assert platform.place.starts["never"] == 0
    assert platform.place.starts["s1"] == 1


async def test_old_invocations_are_forgotten(patient: PlatformUnderTest) -> None:
    """After thirty days, when the next one is made."""
    begun = await patient.call("POST", f"{BASE}?agent_session_id=s1", {})
    path = f"{BASE}/{begun.headers['x-agent-invocation-id']}"
    patient.clock.now += KEPT_SECONDS - 1
    await patient.call("POST", f"{BASE}?agent_session_id=s1", {})
    await patient.restart()
    assert (await patient.call("GET", path)).status == 202
    patient.clock.now += 2
    await patient.call("POST", f"{BASE}?agent_session_id=s1", {})
    await patient.restart()
    assert (await patient.call("GET", path)).status == 404


@pytest.mark.parametrize("status", [404, 501])
async def test_what_the_agent_does_not_offer(tmp_path: Path, status: int) -> None:
    """Its own envelope passes, byte for byte."""
    said = b'{"error": {"code": "mine", "message": "not offered"}}'

    async def refuse(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(status, {"content-type": "application/json", "x-platform-error-detail": "secret"}, said)

    async with open_platform(tmp_path, Behaviour(handler=refuse)) as platform:
        await platform.create_version()
        begun = await platform.call("POST", BASE, {})
        cancelled = await platform.call("POST", f"{BASE}/{begun.headers['x-agent-invocation-id']}/cancel")
        for answer in (begun, cancelled):
            assert (answer.status, answer.body) == (status, said)
            assert "x-platform-error-detail" not in answer.headers


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


async def test_the_agents_status_passes(patient: PlatformUnderTest) -> None:
    """202 with its own headers, as asynchronous invocations answer, also when they are polled."""
    answer = await patient.call("POST", BASE, {})
    assert (answer.status, answer.json()) == (202, {"status": "running"})
    assert answer.headers["retry-after"] == "3"
    polled = await patient.call("GET", f"{BASE}/{answer.headers['x-agent-invocation-id']}")
    assert (polled.status, polled.headers["retry-after"]) == (202, "3")


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


@pytest.mark.parametrize("document", ["openapi.json", "asyncapi.json", "asyncapi.yaml"])
async def test_documents(platform: PlatformUnderTest, document: str) -> None:
    """Each kind has its path; the query goes along."""
    await platform.create_version()
    await platform.call("GET", f"{BASE}/docs/{document}?agent_session_id=s1&a=b&api-version=v1")
    assert asked_of(platform)[-1].path == f"/invocations/docs/{document}?a=b&agent_session_id=s1"


@pytest.mark.parametrize("path", ["", "/docs/openapi.json"])
async def test_agents_that_speak_something_else(platform: PlatformUnderTest, path: str) -> None:
    """400, with what the agent speaks instead."""
    only = {**DEFINITION, "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}]}
    await platform.create_version("a1", only)
    answer = await platform.call("GET" if path else "POST", BASE + path, None)
    assert answer.status == 400
    assert "declares responses" in answer.error["message"]
    named = await platform.call("GET" if path else "POST", f"{BASE}{path}?agent_session_id=s1", None)
    assert named.status == 400
    assert platform.place.starts["s1"] == 0
