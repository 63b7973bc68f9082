"""The activity protocol: one activity to the container, its answer back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform

PROTOCOLS = f"{PROJECT}/agents/a1/endpoint/protocols"
SPEAKING = {**DEFINITION, "protocol_versions": [{"protocol": "activity", "version": "2.0.0"}]}
ACTIVITY: dict[str, Any] = {"type": "message", "id": "act-1", "text": "hello", "deliveryMode": "expectReplies"}


async def reply(sandbox: FakeSandbox, request: Request) -> Reply:
    """Answers in the body where that is expected, else with 202, as the official adapter does."""
    activity = orjson.loads(request.body)
    headers = {"content-type": "application/json", "x-agent-activity-id": activity["id"]}
    if activity.get("deliveryMode") != "expectReplies":
        return Reply(202, headers)
    return Reply(200, headers, orjson.dumps({"activities": [{"text": f"Echo: {activity['text']}"}]}))


REPLYING = Behaviour(handler=reply)


def last_request(platform: PlatformUnderTest) -> Request:
    asked = [request for sandbox in platform.place.sandboxes.values() for request in sandbox.requests]
    return next(request for request in reversed(asked) if request.path != "/readiness")


@pytest.mark.parametrize("spelling", ["activityprotocol", "activityProtocol", "activity", "ACTIVITYPROTOCOL"])
async def test_every_spelling_leads_to_the_container(tmp_path: Path, spelling: str) -> None:
    """Documents and tools write the path in different cases; the container has one."""
    async with open_platform(tmp_path, REPLYING) as platform:
        await platform.create_version("a1", SPEAKING)
        answer = await platform.call("POST", f"{PROTOCOLS}/{spelling}?api-version=v1", ACTIVITY)
        assert (answer.status, answer.json()) == (200, {"activities": [{"text": "Echo: hello"}]})
        session = answer.headers["x-agent-session-id"]
        assert answer.headers["x-agent-activity-id"] == "act-1"
        request = last_request(platform)
        assert (request.method, request.path) == ("POST", f"/activity/messages?agent_session_id={session}")
        assert orjson.loads(request.body) == ACTIVITY


async def test_replies_that_go_elsewhere(tmp_path: Path) -> None:
    """Without `expectReplies` the container's 202 is the answer."""
    async with open_platform(tmp_path, REPLYING) as platform:
        await platform.create_version("a1", SPEAKING)
        answer = await platform.call("POST", f"{PROTOCOLS}/activity", {**ACTIVITY, "deliveryMode": "normal"})
        assert (answer.status, answer.body) == (202, b"")
        assert answer.headers["x-agent-activity-id"] == "act-1"


async def test_only_the_query_names_a_session(tmp_path: Path) -> None:
    """A header of that name is dropped: the container would believe it."""
    async with open_platform(tmp_path, REPLYING) as platform:
        await platform.create_version("a1", SPEAKING)
        path = f"{PROTOCOLS}/activity?agent_session_id=s1"
        answer = await platform.call("POST", path, ACTIVITY, headers={"x-agent-session-id": "forged"})
        assert answer.headers["x-agent-session-id"] == "s1"
        headers = last_request(platform).headers
        assert "x-agent-session-id" not in headers
        assert (headers["x-agent-user-id"], headers["x-agent-foundry-call-id"][:5]) == (platform.user, "call_")
        assert (await platform.caller("other")("POST", path, ACTIVITY)).status == 403


async def test_agents_that_speak_something_else(platform: PlatformUnderTest) -> None:
    """400, with what the agent speaks instead."""
    await platform.create_version()
    answer = await platform.call("POST", f"{PROTOCOLS}/activityprotocol", ACTIVITY)
    assert answer.status == 400
    assert "does not speak the activity protocol" in answer.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "activity", 405), ("POST", "activities", 501), ("POST", "myactivity", 501)]
)
async def test_what_is_no_activity(platform: PlatformUnderTest, method: str, path: str, status: int) -> None:
    """Other methods and other names lead nowhere."""
    await platform.create_version("a1", SPEAKING)
    assert (await platform.call(method, f"{PROTOCOLS}/{path}", ACTIVITY)).status == status
