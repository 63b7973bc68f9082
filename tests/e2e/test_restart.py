"""SIGKILL at bad moments, a start on the same directory and port, and what is there then; SIGTERM, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Server, Where, eventually, responses_of

pytestmark = pytest.mark.e2e

SESSION = "s1"
RESPONSES = responses_of("a1")


def until(events: Iterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(event for event in events if event["type"] == kind)


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


def test_a_version_that_is_being_made_becomes_active(server: Server, where: Where) -> None:
    """What was half made when the platform was killed is removed, and its version is made again."""
    server.start(where)
    server.create(where, "a1", READY_AFTER="2")
    half_made = eventually(lambda: where.running(server), "a sandbox that is being made")
    server.kill()
    server.start(where)
    assert server.settled("a1")["status"] == "active"
    made = where.running(server)
    assert len(made) == 1
    assert made.isdisjoint(half_made)
    assert server.invoke("a1", {})["calls"] == 1


def test_a_running_sandbox_is_adopted(server: Server, where: Where) -> None:
    """The sandbox keeps serving its session; the stream that was broken off is `failed` and says why."""
    server.start(where)
    server.deploy(where, "a1")
    before = server.invoke("a1", {}, SESSION)
    running = where.running(server)
    with server.streaming("a1", 60, SESSION) as events:
        begun = until(events, "response.created")["response"]
        until(events, "response.output_text.delta")
        server.kill()
    server.start(where)

    assert where.running(server) == running
    assert [live["session"] for live in server.status()["running"] if not live["warm"]] == [SESSION]
    after = server.invoke("a1", {}, SESSION)
    assert after == {**before, "calls": 2}
    broken_off = server.rest.get(f"{RESPONSES}/{begun['id']}").json()
    assert broken_off["status"] == "failed"
    assert "restarted" in broken_off["error"]["message"]


def test_what_was_answered_is_kept(server: Server, where: Where) -> None:
    """Killed right after an answer, plain or streamed: response, conversation and session's files are there."""
    server.start(where)
    server.deploy(where, "a1")
    conversation = server.rest.post("/openai/v1/conversations", json={"metadata": {"topic": "e2e"}}).json()
    asked = {"input": "first", "agent_session_id": SESSION, "conversation": conversation["id"]}
    plain = server.rest.post(RESPONSES, json=asked).raise_for_status().json()
    server.kill()
    server.start(where)
    assert server.rest.get(f"{RESPONSES}/{plain['id']}").json() == plain
    assert server.version("a1")["status"] == "active"

    with server.streaming("a1", 0, SESSION, conversation=conversation["id"]) as events:
        streamed = until(events, "response.completed")["response"]
        server.kill()
    for sandbox in where.running(server):
        where.kill(sandbox)
    server.start(where)
    kept = server.rest.get(f"{RESPONSES}/{streamed['id']}").json()
    assert (kept["status"], kept["output"]) == ("completed", streamed["output"])
    items = server.rest.get(f"/openai/v1/conversations/{conversation['id']}/items", params={"order": "asc"}).json()
    assert texts(items["data"]) == ["first", plain["output"][0]["content"][0]["text"], "0", "ticked"]
    again = server.invoke("a1", {}, SESSION)
    assert again["calls"] == 2
    assert again["boot"] != json.loads(plain["output"][0]["content"][0]["text"])["boot"]


def test_a_stopped_platform_leaves_nothing(server: Server, where: Where) -> None:
    """SIGTERM ends sandboxes and network; with its agents deleted, no home stays either."""
    server.start(where)
    server.deploy(where, "a1")
    server.invoke("a1", {}, SESSION)
    server.create(where, "a2", READY_AFTER="60")
    eventually(lambda: len(where.running(server)) >= 2, "a sandbox that is being made")
    server.terminate()
    assert set(server.left()) <= {"volume"}

    server.start(where)
    assert server.invoke("a1", {}, SESSION)["calls"] == 2
    for agent in ("a1", "a2"):
        server.rest.delete(f"/agents/{agent}", params={"force": "true"}).raise_for_status()
    server.terminate()
    assert server.left() == {}
