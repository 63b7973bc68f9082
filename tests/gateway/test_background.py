"""Background responses: without their caller, to their end, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.errors import Conflict
from cupola.gateway.background import Pauses, Relay, stays
from tests.support.agents import EVENTS, event, response_body
from tests.support.platform import OPENAI, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

JSON = {"content-type": "application/json"}
IMPATIENT = Pauses(first=0.001, longest=0.001, denials=3, failures=4)


class PlainAgent:
    """A container that stores nothing itself: it knows its responses for as long as it lives, and streams on a gate."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}
        self.gate = asyncio.Event()
        self.answers: Reply | None = None
        """What it answers to a GET, if not what it knows."""
        self.asked = 0
        self.own_ids = False
        self.streamed = asyncio.Event()

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(handler=self._answer)

    def finish(self, response_id: str, status: str = "completed") -> None:
        self.bodies[response_id].update(status=status, output=[said("done")])

    async def _answer(self, sandbox: FakeSandbox, request: Request) -> Reply:
        if request.method == "POST":
            return self._begin(request)
        self.asked += 1
        if self.answers is not None:
            return self.answers
        known = self.bodies.get(request.path.rpartition("/")[2])
        return Reply(404) if known is None else Reply(200, JSON, orjson.dumps(known))

    def _begin(self, request: Request) -> Reply:
        body = response_body(request, "", "in_progress")
        if self.own_ids:
            body["id"] = f"own-{len(self.bodies)}"
        self.bodies[body["id"]] = body
        if orjson.loads(request.body).get("stream"):
            return Reply(200, EVENTS, self._events(body))
        return Reply(200, JSON, orjson.dumps(body))

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=body)
        await self.gate.wait()
        self.finish(body["id"])
        yield event(1, "response.completed", response=body)
        self.streamed.set()


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}


async def retrieved(platform: PlatformUnderTest, response_id: str) -> Mapping[str, Any]:
    answer = await platform.call("GET", f"{OPENAI}/responses/{response_id}")
    assert answer.status == 200, answer.body
    body: Mapping[str, Any] = answer.json()
    return body


def rests(platform: PlatformUnderTest) -> bool:
    """Nothing counts as activity."""
    return all(not live.background and not live.open_requests for live in platform.platform.sandboxes.live)


async def begun(platform: PlatformUnderTest, **fields: Any) -> str:
    platform.platform.background.pauses = IMPATIENT
    await platform.create_version()
    response = await platform.hear(background=True, **fields)
    assert (response["status"], response["background"]) == ("in_progress", True)
    return str(response["id"])


async def test_a_plain_container_is_asked_until_it_has_finished(tmp_path: Path) -> None:
    """Its last word is kept, with its output as history for the next turn; then the sandbox may rest."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        await wait_until(lambda: agent.asked > 3)
        assert not rests(platform)
        agent.finish(response_id)
        await wait_until(lambda: rests(platform))
        body = await retrieved(platform, response_id)
        assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", "done")
        asked = agent.asked
        platform.clock.now += 901
        await platform.platform.reaper.once()
        assert platform.running() == []
        assert agent.asked == asked


async def test_a_container_with_ids_of_its_own(tmp_path: Path) -> None:
    """It is asked by the id that it knows; callers know the platform's."""
    agent = PlainAgent()
    agent.own_ids = True
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        assert response_id.startswith("caresp_")
        await wait_until(lambda: agent.asked > 1)
        agent.finish("own-0", "incomplete")
        await wait_until(lambda: rests(platform))
        body = await retrieved(platform, response_id)
        assert (body["id"], body["status"]) == (response_id, "incomplete")
        assert "own-0" not in str(body)


async def test_a_container_that_knows_it_no_more(tmp_path: Path) -> None:
    """The response has failed, and says why."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        agent.bodies.clear()
        await wait_until(lambda: rests(platform))
        body = await retrieved(platform, response_id)
        assert body["status"] == "failed"
        assert "404" in body["error"]["message"]


async def test_a_container_that_makes_no_sense(tmp_path: Path) -> None:
    """It is asked a few times more, not for ever."""
    agent = PlainAgent()
    agent.answers = Reply(500, {}, b"oh no")
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        await wait_until(lambda: rests(platform))
        assert agent.asked == IMPATIENT.failures
        assert (await retrieved(platform, response_id))["status"] == "failed"


async def test_a_sandbox_that_ends(tmp_path: Path) -> None:
    """What it ran has failed with what is known of its end."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        platform.sandbox.exit(3)
        async with asyncio.timeout(5):
            while (body := await retrieved(platform, response_id))["status"] == "in_progress":
                await asyncio.sleep(0.005)
        assert rests(platform)
        assert body["status"] == "failed"
        assert "3" in body["error"]["message"]


async def test_a_restart_goes_on_following(tmp_path: Path) -> None:
    """The sandbox was adopted: its response ends as its container says."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        await platform.restart()
        platform.platform.background.pauses = IMPATIENT
        assert (await retrieved(platform, response_id))["status"] == "in_progress"
        assert not rests(platform)
        agent.finish(response_id)
        await wait_until(lambda: rests(platform))
        assert (await retrieved(platform, response_id))["status"] == "completed"


async def test_a_restart_without_the_sandbox(tmp_path: Path) -> None:
    """Nobody will finish it: failed, with a reason."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        response_id = await begun(platform)
        await platform.crash()
        platform.sandbox.exit(1)
        await platform.open()
        body = await retrieved(platform, response_id)
        assert body["status"] == "failed"
        assert "restarted" in body["error"]["message"]
        assert rests(platform)


async def test_a_stream_goes_on_without_its_caller(tmp_path: Path) -> None:
    """The container keeps its connection; what it says at the end is kept, and then the sandbox may rest."""
    agent = PlainAgent()
    left, heard = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(background=True, stream=True, left=left, on_chunk=heard))
        await heard.wait()
        (response_id,) = agent.bodies
        left.set()
        answer = await asking
        assert answer.body.count(b"data:") == 1
        assert not rests(platform)
        platform.clock.now += 5000
        await platform.platform.reaper.once()
        assert (await retrieved(platform, response_id))["status"] == "in_progress"
        agent.gate.set()
        await wait_until(lambda: rests(platform))
        assert agent.streamed.is_set()
        assert platform.sandbox.abandoned == 0
        assert (await retrieved(platform, response_id))["status"] == "completed"


async def test_a_stream_is_heard_to_its_end_by_who_stays(tmp_path: Path) -> None:
    """As in the foreground, and nothing is left behind."""
    agent = PlainAgent()
    agent.gate.set()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        await platform.create_version()
        answer = await platform.ask(background=True, stream=True)
        assert b"event: response.completed" in answer.body
        assert rests(platform)
        assert agent.asked == 0


async def test_a_stream_that_breaks_off_is_followed(tmp_path: Path) -> None:
    """Its response may go on: the container is asked what becomes of it."""
    agent = PlainAgent()

    async def one(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=body)

    agent._events = one  # type: ignore[method-assign]  # a container whose streams end early
    async with open_platform(tmp_path, agent.behaviour) as platform:
        platform.platform.background.pauses = IMPATIENT
        await platform.create_version()
        answer = await platform.ask(background=True, stream=True)
        assert b"response.failed" not in answer.body
        (response_id,) = agent.bodies
        await wait_until(lambda: agent.asked > 1)
        agent.finish(response_id)
        await wait_until(lambda: rests(platform))
        assert (await retrieved(platform, response_id))["status"] == "completed"


async def test_an_answer_is_kept_for_a_caller_who_left(tmp_path: Path) -> None:
    """Also one who left before it came: what has begun goes on, and its end is in the store."""
    agent, slow, left = PlainAgent(), asyncio.Event(), asyncio.Event()
    asked = asyncio.Event()
    begin = agent.behaviour.handler

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.method == "POST":
            asked.set()
            await slow.wait()
        return await begin(sandbox, request)

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        platform.platform.background.pauses = IMPATIENT
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(background=True, left=left))
        await asked.wait()
        left.set()
        assert (await asking).status == 0
        slow.set()
        await wait_until(lambda: agent.asked > 1)
        (response_id,) = agent.bodies
        agent.finish(response_id)
        await wait_until(lambda: rests(platform))
        assert (await retrieved(platform, response_id))["status"] == "completed"


async def test_a_refused_request_is_no_activity(tmp_path: Path) -> None:
    """Nothing has begun: nothing is followed, nothing keeps the sandbox awake."""

    async def refuse(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(400, JSON, b'{"error":{"code":"mine","message":"no"}}')

    async with open_platform(tmp_path, Behaviour(handler=refuse)) as platform:
        await platform.create_version()
        assert (await platform.ask(background=True)).status == 400
        assert rests(platform)


async def test_a_dead_sandbox_is_replaced_before_it_answers(tmp_path: Path) -> None:
    """The new one runs it, and is the one that is kept awake and followed."""
    agent = PlainAgent()
    async with open_platform(tmp_path, agent.behaviour) as platform:
        platform.platform.background.pauses = IMPATIENT
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        for sandbox in list(platform.place.sandboxes.values()):
            sandbox.exit(1)
        response = await platform.hear(background=True, agent_session_id="s")
        live = platform.platform.sandboxes.live_of(("demo", "a1", "s"))
        assert live is not None
        assert live.background == {response["id"]}
        agent.finish(response["id"])
        await wait_until(lambda: rests(platform))
        assert (await retrieved(platform, response["id"]))["status"] == "completed"


async def test_a_failure_in_the_moment_in_which_its_caller_is_let_go(tmp_path: Path) -> None:
    """Nobody waits for the result any more: it is in the log, with its reason."""

    async def breaks() -> None:
        raise Conflict("The start was broken off.")

    async def unheard(message: Message) -> None:
        raise AssertionError(message)

    async with open_platform(tmp_path, Behaviour()) as platform:
        background = platform.platform.background
        with capture_logs() as logs:
            running = asyncio.create_task(background.run(breaks(), stays, Relay(unheard)))
            await asyncio.sleep(0)  # it waits for its work
            await asyncio.sleep(0)  # which has failed
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await wait_until(lambda: bool(logs))
    assert [(line["code"], line["reason"]) for line in logs] == [("conflict", "The start was broken off.")]
