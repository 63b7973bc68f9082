"""The split of each request's time: in headers for who asks, kept for every request. The test moves the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Moment, Reply, Request
from cupola.store import timings as rows
from cupola.timings import SessionStart, Timing
from tests.support.agents import EVENTS, event, response_body
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, PlatformUnderTest, open_platform
from tests.support.sockets import Agent, listening, repeat
from tests.support.waiting import wait_until

ASKED = {"x-ms-debug-latency-enabled": "true"}
PREFIX = "x-ms-debug-latency-"
INVOCATIONS = f"{PROJECT}/agents/a1/endpoint/protocols/invocations"


def told(answer: Answer) -> dict[str, str]:
    """What an answer says of the split."""
    return {name.removeprefix(PREFIX): value for name, value in answer.headers.items() if name.startswith(PREFIX)}


async def kept(platform: PlatformUnderTest) -> list[Timing]:
    """Every timing of the agent, oldest first."""
    platform.platform.timekeeper.write()
    found, _ = await platform.store.read(lambda conn: rows.next_timings(conn, "demo", "a1", (0.0, 0), 1000))
    return found


async def invoke(platform: PlatformUnderTest, session: str, headers: Mapping[str, str] = ASKED) -> Answer:
    return await platform.call("POST", f"{INVOCATIONS}?agent_session_id={session}", {}, headers=headers)


class Slow:
    """Agents for whom time passes: 2 s until a sandbox runs, 3 s until it is ready, half a second for an answer."""

    def __init__(self, platform: PlatformUnderTest) -> None:
        self.platform = platform
        self.heard = asyncio.Event()

    def pass_by(self, seconds: float) -> None:
        self.platform.clock.now += seconds

    async def answer(self, sandbox: FakeSandbox, request: Request) -> Reply:
        """Streams end a second after their first event was `heard`; asynchronous invocations are accepted."""
        self.pass_by(0.5)
        if request.path.startswith("/invocations"):
            return Reply(202 if b"later" in request.body else 200, {"content-type": "application/json"}, b"{}")
        if orjson.loads(request.body).get("stream"):
            return Reply(200, EVENTS, self._events(request))
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, "hi")))

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        await self.heard.wait()
        self.pass_by(1)
        yield event(1, "response.completed", response=response_body(request, "hi"))

    async def start(self, asking: asyncio.Task[Answer], *, ends: bool = False) -> Answer:
        """Lets the start that a request causes take its time, and returns the answer; `ends`: it comes to nothing."""
        made = asyncio.Event()
        place, known = self.platform.place, set(self.platform.place.sandboxes)
        place.behaviour = Behaviour(handler=self.answer, hangs=Moment.START, released=made, readiness=503)
        await wait_until(lambda: bool(set(place.sandboxes) - known))
        self.pass_by(2)
        made.set()
        sandbox = place.sandboxes[(set(place.sandboxes) - known).pop()]
        await wait_until(lambda: bool(sandbox.requests))
        self.pass_by(3)
        if ends:
            sandbox.exit(3)
        sandbox.readiness = 200
        return await asking


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    """A platform with an agent; whoever names a session begins it cold."""
    async with open_platform(tmp_path, Behaviour()) as under_test:
        slow = Slow(under_test)
        under_test.place.behaviour = Behaviour(handler=slow.answer)
        await under_test.create_version()
        yield under_test


async def test_cold_warm_and_resumed(platform: PlatformUnderTest) -> None:
    """As documented: whole milliseconds that add up, and no parts of a start where there was none."""
    slow = Slow(platform)
    cold = await slow.start(asyncio.create_task(invoke(platform, "s1")))
    assert told(cold) == {
        "session-start-type": "cold",
        "platform-preprocessing-ms": "0",
        "infra-setup-ms": "2000",
        "container-readiness-ms": "3000",
        "container-response-ms": "500",
        "response-begin-ms": "5500",
    }
    warm = await invoke(platform, "s1")
    assert told(warm) == {
        "session-start-type": "warm",
        "platform-preprocessing-ms": "0",
        "container-response-ms": "500",
        "response-begin-ms": "500",
    }
    assert (await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/s1:stop")).status == 204
    resumed = await slow.start(asyncio.create_task(invoke(platform, "s1")))
    assert told(resumed) == {**told(cold), "session-start-type": "resume"}
    assert [(one.start_type, one.status, one.response_begin_ms) for one in await kept(platform)] == [
        (SessionStart.COLD, 200, 5500.0),
        (SessionStart.WARM, 200, 500.0),
        (SessionStart.RESUME, 200, 5500.0),
    ]


async def test_who_does_not_ask_is_told_nothing_and_kept_all_the_same(platform: PlatformUnderTest) -> None:
    """Also who asks in other words."""
    for number, headers in enumerate(({}, {"x-ms-debug-latency-enabled": "false"})):
        assert told(await invoke(platform, f"s{number}", headers)) == {}
    assert len(await kept(platform)) == 2


async def test_a_timing_says_what_the_request_was(platform: PlatformUnderTest) -> None:
    """Everything that it is looked for by."""
    await invoke(platform, "s1", {"x-request-id": "mine"})
    (one,) = await kept(platform)
    assert one == Timing(
        project="demo",
        agent="a1",
        version="1",
        session="s1",
        request_id="mine",
        protocol="invocations",
        start_type=SessionStart.WARM,  # with a clock that stands still nobody waits for a start
        status=200,
        began_at=1_700_000_000.0,
        preprocessing_ms=0,
        infra_setup_ms=0,
        readiness_ms=0,
        response_ms=500.0,
        response_begin_ms=500.0,
        last_byte_ms=500.0,
    )


async def test_a_stream_is_measured_to_its_head_and_to_its_end(platform: PlatformUnderTest) -> None:
    """The headers know the head only; what is kept knows both."""
    slow = Slow(platform)
    platform.place.behaviour = Behaviour(handler=slow.answer)
    asked = {"input": "x", "stream": True, "agent_session_id": "s1"}
    answer = await platform.call("POST", f"{OPENAI}/responses", asked, headers=ASKED, on_chunk=slow.heard)
    assert told(answer)["response-begin-ms"] == "500"
    (one,) = await kept(platform)
    assert (one.protocol, one.response_begin_ms, one.last_byte_ms) == ("responses", 500.0, 1500.0)


@pytest.mark.parametrize(
    ("path", "body"), [(f"{OPENAI}/responses", {"input": "x", "background": True}), (INVOCATIONS, {"do": "later"})]
)
async def test_an_acknowledgement_tells_only_what_the_platform_took(
    platform: PlatformUnderTest, path: str, body: Any
) -> None:
    """Asynchronous responses and invocations: what their container takes is yet to come."""
    answer = await platform.call("POST", path, body, headers=ASKED)
    assert answer.status in (200, 202)
    assert set(told(answer)) == {"session-start-type", "platform-preprocessing-ms"}


async def test_a_start_that_failed_is_kept_with_its_parts(platform: PlatformUnderTest) -> None:
    """424: no headers, as on Azure, but what it took is in the statistics."""
    answer = await Slow(platform).start(asyncio.create_task(invoke(platform, "s1")), ends=True)
    assert (answer.status, told(answer)) == (424, {})
    (one,) = await kept(platform)
    assert (one.status, one.session, one.version, one.start_type) == (424, "s1", "1", SessionStart.COLD)
    assert (one.infra_setup_ms, one.readiness_ms, one.response_ms, one.response_begin_ms) == (2000, 3000, 0, 5000)


async def test_requests_that_got_nowhere_are_kept(platform: PlatformUnderTest) -> None:
    """400: there is no version and no session to name."""
    assert (await invoke(platform, "not%20one")).status == 400
    (one,) = await kept(platform)
    assert (one.status, one.version, one.session, one.start_type) == (400, "", "", SessionStart.WARM)


async def test_lost_sandboxes_and_callers_who_leave(platform: PlatformUnderTest) -> None:
    """502, and 499 for who left before the head of a reply."""
    left = asyncio.Event()

    async def vanish(sandbox: FakeSandbox, request: Request) -> Reply:
        if b"leave" not in request.body:
            sandbox.exit(1)
        left.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    platform.place.behaviour = Behaviour(handler=vanish)
    path = f"{INVOCATIONS}?agent_session_id=s"
    assert (await platform.call("POST", path, {})).status == 502
    left.clear()
    await platform.call("POST", path, {"do": "leave"}, left=left)
    assert [one.status for one in await kept(platform)] == [502, 499]


async def test_only_requests_to_agents_are_kept(platform: PlatformUnderTest) -> None:
    """Polls, lists and whatever else answers from the store would bury what matters."""
    response = await platform.hear(agent_session_id="s1")
    for path in (f"{OPENAI}/responses/{response['id']}", f"{PROJECT}/agents/a1/endpoint/sessions", f"{PROJECT}/agents"):
        answer = await platform.call("GET", path, headers=ASKED)
        assert (answer.status, told(answer)) == (200, {})
    assert len(await kept(platform)) == 1


async def test_a_websocket_is_kept_and_told_nothing(tmp_path: Path) -> None:
    """Its head is the acceptance, its end the end of the connection."""
    async with listening(tmp_path, Agent(repeat)) as at:
        async with at.connect("agent_session_id=s1", additional_headers=ASKED) as socket:
            assert socket.response is not None
            assert not [name for name in socket.response.headers if name.lower().startswith(PREFIX)]
            at.platform.clock.now += 60
        await wait_until(lambda: not at.platform.platform.sandboxes.live_of(("demo", "a1", "s1")).open_requests)  # type: ignore[union-attr]  # it runs
        platform = at.platform
        (one,) = await kept(platform)
        assert (one.protocol, one.status, one.session, one.last_byte_ms) == ("invocations_ws", 101, "s1", 60_000.0)


async def test_setting_the_machines_clock_changes_no_duration(tmp_path: Path) -> None:
    """Durations are of a clock that does not jump."""
    async with open_platform(tmp_path, Behaviour()) as platform:

        async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
            platform.clock.jump -= 86_400
            return Reply(200)

        platform.place.behaviour = Behaviour(handler=answer)
        await platform.create_version()
        assert told(await invoke(platform, "s1"))["response-begin-ms"] == "0"


async def test_a2a_is_kept_under_its_own_name(tmp_path: Path) -> None:
    """With what the responses protocol took under it."""
    card = {"agent_card": {"version": "1", "skills": [{"id": "s", "name": "s"}]}}
    endpoint: dict[str, Any] = {"agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}}}
    async with open_platform(tmp_path, Behaviour()) as platform:
        platform.place.behaviour = Behaviour(handler=Slow(platform).answer)
        await platform.create_version("a1", DEFINITION)
        assert (await platform.call("PATCH", f"{PROJECT}/agents/a1", {**endpoint, **card})).status == 200
        message = {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
        answer = await platform.call(
            "POST", f"{PROJECT}/agents/a1/endpoint/protocols/a2a/v1/message:send", {"message": message}, headers=ASKED
        )
        assert told(answer)["container-response-ms"] == "500"
        (one,) = await kept(platform)
        assert (one.protocol, one.session) == ("a2a", answer.headers["x-agent-session-id"])


async def test_what_came_of_it_tells_it_again(platform: PlatformUnderTest) -> None:
    """A later GET repeats the split of the request that had asked for it, by itself, and no other's."""
    slow = Slow(platform)
    asked = {"input": "x", "agent_session_id": "s1"}
    made = await slow.start(asyncio.create_task(platform.call("POST", f"{OPENAI}/responses", asked, headers=ASKED)))
    slow.pass_by(100)
    again = await platform.call("GET", f"{OPENAI}/responses/{made.json()['id']}")
    assert told(again) == {**told(made), "total-last-byte-ms": "5500"}
    other = await platform.hear(agent_session_id="s1")
    assert told(await platform.call("GET", f"{OPENAI}/responses/{other['id']}", headers=ASKED)) == {}


async def test_an_accepted_invocation_tells_what_the_platform_took(platform: PlatformUnderTest) -> None:
    """Also when it is polled; nobody learns it of another's."""
    path = f"{INVOCATIONS}?agent_session_id=s1"
    begun = await platform.call("POST", path, {"do": "later"}, headers=ASKED)
    poll = f"{INVOCATIONS}/{begun.headers['x-agent-invocation-id']}"
    polled = told(await platform.call("GET", poll))
    assert polled.pop("total-last-byte-ms") == "500"
    assert polled == told(begun)
    assert told(await platform.caller("eve")("GET", poll)) == {}
