"""Every answer of the data plane and of sessions names the request, and the session once one is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.identity import Role
from tests.support.agents import echo
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, PlatformUnderTest, open_platform
from tests.support.sockets import PATH, Agent, listening, repeat

AGENT = f"{PROJECT}/agents/a1"
PROTOCOLS = f"{AGENT}/endpoint/protocols"
SESSIONS = f"{AGENT}/endpoint/sessions"
ALL = {
    **DEFINITION,
    "protocol_versions": [
        {"protocol": name, "version": "2.0.0"} for name in ("responses", "invocations", "activity", "invocations_ws")
    ],
}
CARD = {"version": "1", "skills": [{"id": "s", "name": "s"}]}
MESSAGE = {"message": {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}}
RPC = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": MESSAGE}
REFERENCE = {"agent_reference": {"type": "agent_reference", "name": "a1"}}


@dataclass(frozen=True, slots=True)
class Case:
    """A request that names the session `mine` or none, and the status of its answer."""

    method: str
    path: str
    status: int
    body: Any = None
    named: bool = True


INVOKED = [
    *(
        Case("POST", f"{base}/responses", 200, {"input": "hi", "agent_session_id": "mine", **more, **REFERENCE})
        for base in (OPENAI, f"{PROTOCOLS}/openai", f"{PROJECT}/openai/v1", f"{PROJECT}/openai")
        for more in ({}, {"stream": True})
    ),
    Case("POST", f"{OPENAI}/responses", 200, {"input": "hi"}, named=False),
    Case("POST", f"{PROTOCOLS}/invocations?agent_session_id=mine", 200, {}),
    Case("POST", f"{PROTOCOLS}/invocations", 200, {}, named=False),
    Case("GET", f"{PROTOCOLS}/invocations/docs/openapi.json?agent_session_id=mine", 200),
    Case("POST", f"{PROTOCOLS}/activityProtocol?agent_session_id=mine", 200, {"type": "message", "input": ""}),
    Case("POST", f"{PROTOCOLS}/a2a?agent_session_id=mine", 200, RPC),
    Case("POST", f"{PROTOCOLS}/a2a", 200, {**RPC, "method": "message/stream"}, named=False),
    Case("POST", f"{PROTOCOLS}/a2a/v1/message:send?agent_session_id=mine", 200, MESSAGE),
]
"""What reaches a container; each is tried with containers that work, fail and do not start."""

OTHERS = [
    Case("POST", f"{OPENAI}/responses", 404, {"input": "hi", "agent_session_id": "mine", "conversation": "conv_x"}),
    Case("GET", f"{PROTOCOLS}/invocations/x?agent_session_id=mine", 404),
    Case("POST", f"{PROTOCOLS}/invocations/x/cancel?agent_session_id=mine", 404),
    Case("GET", f"{PROTOCOLS}/invocations_ws?agent_session_id=mine", 400),
    Case("POST", f"{PROTOCOLS}/a2a?agent_session_id=mine", 200, {**RPC, "method": "nothing"}),
    Case("GET", f"{SESSIONS}/mine", 404),
    Case("POST", f"{SESSIONS}/mine:stop", 404),
    Case("DELETE", f"{SESSIONS}/mine", 204),
    Case("POST", SESSIONS, 400, {"agent_session_id": "mine", "version_indicator": {"agent_version": "@latest"}}),
    Case("POST", SESSIONS, 404, {"agent_session_id": "mine", "version_indicator": {"agent_version": "9"}}),
    Case("POST", SESSIONS, 201, {"agent_session_id": "mine"}),
    Case("POST", SESSIONS, 201, {}, named=False),
]
"""What is answered without a container."""


async def speak(sandbox: FakeSandbox, request: Request) -> Reply:
    """Every protocol; names that only the platform may say are not passed on."""
    if request.path.startswith("/responses"):
        return await echo(sandbox, request)
    return Reply(200, {"content-type": "application/json", "x-agent-session-id": "forged", "x-request-id": "x"}, b"{}")


async def fail(sandbox: FakeSandbox, request: Request) -> Reply:
    return Reply(500, {"x-agent-session-id": "forged"}, b"{}")


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    async with open_platform(tmp_path, Behaviour(handler=speak)) as under_test:
        await under_test.create_version("a1", ALL)
        assert (await under_test.call("PATCH", AGENT, _OFFERED)).status == 200
        yield under_test


_OFFERED = {
    "agent_endpoint": {"protocol_configuration": {"responses": {}, "invocations": {}, "activity": {}, "a2a": {}}},
    "agent_card": CARD,
}


async def answer_to(platform: PlatformUnderTest, case: Case, headers: Mapping[str, str] | None = None) -> Answer:
    return await platform.call(case.method, case.path, case.body, headers={"x-request-id": "r-1", **(headers or {})})


def require_named(answer: Answer, case: Case) -> None:
    assert answer.headers["x-request-id"] == "r-1"
    session = answer.headers["x-agent-session-id"]
    assert session == "mine" if case.named else session not in ("", "forged", "mine")


@pytest.mark.parametrize("case", INVOKED, ids=str)
async def test_answers_of_containers(platform: PlatformUnderTest, case: Case) -> None:
    """In every layout and protocol, plain and streamed."""
    answer = await answer_to(platform, case)
    assert answer.status == case.status, answer.body
    require_named(answer, case)


@pytest.mark.parametrize("case", OTHERS, ids=str)
async def test_answers_of_the_platform(platform: PlatformUnderTest, case: Case) -> None:
    """Also where the session does not exist: the one that was asked for is named."""
    answer = await answer_to(platform, case)
    assert answer.status == case.status, answer.body
    require_named(answer, case)


@pytest.mark.parametrize("case", INVOKED, ids=str)
async def test_answers_of_containers_that_fail(platform: PlatformUnderTest, case: Case) -> None:
    """A container's 500."""
    await _use_up_the_warm_one(platform)
    platform.place.behaviour = lambda source: Behaviour(handler=fail)
    answer = await answer_to(platform, case)
    require_named(answer, case)
    assert answer.status in (500, 502) or b"error" in answer.body or b"failed" in answer.body, answer.body


@pytest.mark.parametrize("case", INVOKED, ids=str)
async def test_answers_of_sessions_that_do_not_start(platform: PlatformUnderTest, case: Case) -> None:
    """424: the session is there, and its evidence is found by its id."""
    await _use_up_the_warm_one(platform)
    platform.place.behaviour = lambda source: Behaviour(exit_code=3)
    answer = await answer_to(platform, case)
    assert answer.status == 424, answer.body
    require_named(answer, case)
    assert answer.error["additionalInfo"]["agent_session_id"] == answer.headers["x-agent-session-id"]
    assert answer.error["additionalInfo"]["agent_version"] == "1"


async def _use_up_the_warm_one(platform: PlatformUnderTest) -> None:
    assert (await platform.ask()).status == 200


@pytest.mark.parametrize("case", INVOKED, ids=str)
async def test_answers_of_another_callers_session(platform: PlatformUnderTest, case: Case) -> None:
    """403: it says no more than the caller has said himself."""
    assert (await platform.ask(agent_session_id="mine")).status == 200
    bob = platform.caller("bob", Role.USER)
    answer = await bob(case.method, case.path, case.body, headers={"x-request-id": "r-1"})
    if case.named and not case.path.startswith(f"{PROTOCOLS}/a2a"):
        assert answer.status in (403, 404), answer.body
    require_named(answer, case)


async def test_answers_when_there_is_no_room(tmp_path: Path) -> None:
    """429: the session was begun, and is tried again by its id."""
    busy, gate = asyncio.Event(), asyncio.Event()

    async def hold(sandbox: FakeSandbox, request: Request) -> Reply:
        busy.set()
        await gate.wait()
        return Reply(200)

    async with open_platform(tmp_path, Behaviour(handler=hold), max_sandboxes=1) as platform:
        await platform.create_version("a1", ALL)
        first = asyncio.create_task(platform.call("POST", f"{PROTOCOLS}/invocations", {}))
        await busy.wait()
        for case in INVOKED:
            if case.path.startswith(f"{PROTOCOLS}/a2a"):
                continue  # not offered by this one
            answer = await answer_to(platform, case)
            assert (answer.status, answer.error["code"]) == (429, "QuotaExceeded"), answer.body
            require_named(answer, case)
        gate.set()
        assert (await first).status == 200


async def test_answers_after_the_sandbox_was_lost(platform: PlatformUnderTest) -> None:
    """502."""

    async def die(sandbox: FakeSandbox, request: Request) -> Reply:
        sandbox.exit(1)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    platform.place.behaviour = lambda source: Behaviour(handler=die)
    case = Case("POST", f"{PROTOCOLS}/invocations?agent_session_id=mine", 502, {})
    answer = await answer_to(platform, case)
    assert answer.status == 502, answer.body
    require_named(answer, case)


async def test_stored_responses_name_their_session(platform: PlatformUnderTest) -> None:
    """Retrieved, listed, refused to be cancelled, deleted, and as A2A tasks."""
    response = await platform.hear(agent_session_id="mine")
    path = f"{OPENAI}/responses/{response['id']}"
    for method, target, status in [
        ("GET", path, 200),
        ("GET", f"{path}/input_items", 200),
        ("POST", f"{path}/cancel", 400),
        ("GET", f"{path}?stream=true", 400),
        ("GET", f"{PROTOCOLS}/a2a/v1/tasks/{response['id']}", 200),
        ("DELETE", path, 200),
    ]:
        answer = await answer_to(platform, case := Case(method, target, status))
        assert answer.status == status, answer.body
        require_named(answer, case)


@pytest.mark.parametrize("odd", ["a%0d%0ax-evil:1", "a%20b", "x" * 129, "%C3%A9"])
@pytest.mark.parametrize("path", [f"{PROTOCOLS}/invocations?agent_session_id={{}}", f"{SESSIONS}/{{}}"])
async def test_what_can_be_no_session_is_not_repeated(platform: PlatformUnderTest, path: str, odd: str) -> None:
    """A header holds nothing that a caller could make up freely."""
    method = "POST" if "invocations" in path else "GET"
    answer = await platform.call(method, path.format(odd), {})
    assert answer.status in (400, 404)
    assert "x-agent-session-id" not in answer.headers


@pytest.mark.parametrize("refused_by", ["no start", "another's", "no agent"])
async def test_refused_websockets(tmp_path: Path, refused_by: str) -> None:
    """Before a container was reached there is nothing but the refusal to tell from."""
    async with listening(tmp_path, Agent(repeat)) as at:
        path, status = PATH, 424
        if refused_by == "no agent":
            path, status = PATH.replace("a1", "a2"), 404
        if refused_by == "another's":
            status = 403
            async with at.connect("agent_session_id=mine", principal="bob"):
                pass
        at.platform.place.behaviour = Behaviour(exit_code=3)
        with pytest.raises(InvalidStatus) as refused:
            await at.connect("agent_session_id=mine", path=path, additional_headers={"x-request-id": "r-1"})
        reply = refused.value.response
        assert reply.status_code == status
        assert (reply.headers["x-request-id"], reply.headers["x-agent-session-id"]) == ("r-1", "mine")
