"""The Responses protocol through the gateway, against fake agents."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.agents import slow
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform

BASE = f"{PROJECT}/agents/a1/endpoint/protocols/openai/v1"


async def test_answers_and_keeps_the_response(platform: PlatformUnderTest) -> None:
    """A plain response comes back filled in, names its session, and can be retrieved."""
    await platform.create_version()
    answer = await platform.call("POST", f"{BASE}/responses", {"input": "hello"})
    assert answer.status == 200, answer.body
    body = answer.json()
    assert body["output"][0]["content"][0]["text"] == "You said: hello"
    assert body["agent_session_id"] == answer.headers["x-agent-session-id"]
    assert body["tools"] == []
    kept = await platform.call("GET", f"{BASE}/responses/{body['id']}")
    assert kept.json()["output"] == body["output"]


async def test_streams_untouched_and_keeps_the_end(platform: PlatformUnderTest) -> None:
    """Events pass one by one; after the last one the response is in the store."""
    await platform.create_version()
    answer = await platform.call("POST", f"{BASE}/responses", {"input": "one two", "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"event: response.output_text.delta") == 4
    response_id = answer.body.split(b'"id":"')[1].split(b'"')[0].decode()
    kept = await platform.call("GET", f"{BASE}/responses/{response_id}")
    assert kept.json()["status"] == "completed"


async def test_a_caller_who_leaves_is_noticed(tmp_path: Path) -> None:
    """A foreground run ends when its caller goes: the container sees the connection close."""
    gate, left, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(
            platform.call("POST", f"{BASE}/responses", {"input": "x", "stream": True}, left=left, on_chunk=begun)
        )
        await begun.wait()
        left.set()
        await asking
        sandbox = next(iter(platform.place.sandboxes.values()))
        async with asyncio.timeout(5):
            while not sandbox.abandoned:
                await asyncio.sleep(0)
        assert all(live.open_requests == 0 for live in platform.platform.sandboxes.live)


async def test_the_old_guides_definition_reaches_any_container(platform: PlatformUnderTest) -> None:
    """`v1` with tools, as the old guide has it: today's headers arrive, and no tools that a container would refuse."""
    definition = {
        "kind": "hosted",
        "image": "agent:1",
        "container_protocol_versions": [{"protocol": "responses", "version": "v1"}],
        "cpu": "1",
        "memory": "2Gi",
        "tools": [{"type": "file_search"}],
    }
    shown = await platform.create_version("old", definition)
    assert shown["definition"]["tools"] == [{"type": "file_search"}]
    asked = {"input": "hi", "agent": {"type": "agent_reference", "name": "old"}}
    answer = await platform.call("POST", f"{PROJECT}/openai/responses", asked)
    assert answer.status == 200, answer.body
    sandbox = next(iter(platform.place.sandboxes.values()))
    request = sandbox.requests[-1]
    assert b'"tools"' not in request.body
    assert {"x-aml-oid", "x-agent-user-id", "x-agent-foundry-call-id"} <= request.headers.keys()
