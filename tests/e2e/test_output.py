"""What sandboxes write is kept when the platform is killed: every line once, while they talk and when they are gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Server, Where, eventually

pytestmark = pytest.mark.e2e

SESSION = "s1"


def rows(server: Server) -> list[dict[str, Any]]:
    """The agent's logs, as `cupola logs` asks for them."""
    path = "/cupola/projects/demo/agents/a1/logs"
    answer = server.rest.get(str(server.rest.base_url.copy_with(path=path)))
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def numbers(server: Server, sandbox: str) -> list[int]:
    lines = (row["text"] for row in rows(server) if row["sandbox"] == sandbox and row["event"] is None)
    return [int(line.removeprefix("line ")) for line in lines]


def test_no_line_is_lost_or_comes_twice(server: Server, where: Where) -> None:
    """Killed twice in the middle of its talk, the third platform has all that the sandbox ever wrote."""
    server.start(where)
    server.deploy(where, "a1", TALK="1")
    server.invoke("a1", {}, SESSION)
    (sandbox,) = {row["sandbox"] for row in rows(server) if row["session"] == SESSION}
    seen = 0
    for _ in range(2):
        reached = seen + 50
        eventually(lambda: len(numbers(server, sandbox)) > reached, "some lines more")  # noqa: B023 - used at once
        seen = len(numbers(server, sandbox))
        server.kill()
        server.start(where)
        assert len(numbers(server, sandbox)) >= seen
    eventually(lambda: len(numbers(server, sandbox)) > seen + 50, "lines after the last start")
    server.rest.post(f"/agents/a1/endpoint/sessions/{SESSION}:stop").raise_for_status()
    whole = numbers(server, sandbox)
    assert whole == list(range(len(whole)))
    assert len(whole) > seen + 50
    events = [row["event"] for row in rows(server) if row["sandbox"] == sandbox and row["event"]]
    assert events == ["began", "ready", "ended"]


def test_what_died_with_the_platform_is_told(server: Server, where: Where) -> None:
    """Sandboxes killed while no platform ran: after the start their runs are closed, and their lines are there."""
    server.start(where)
    server.deploy(where, "a1", TALK="1")
    server.invoke("a1", {}, SESSION)
    (sandbox,) = {row["sandbox"] for row in rows(server) if row["session"] == SESSION}
    server.kill()
    for running in where.running(server):
        where.kill(running)
    server.start(where)
    (ended,) = (row for row in rows(server) if row["sandbox"] == sandbox and row["event"] == "ended")
    assert ended["session"] == SESSION
    whole = numbers(server, sandbox)
    assert whole == list(range(len(whole)))
    assert whole
