"""Warm pools of official adapters: a container that waited without a session serves any session as if it were born to.

The newest `core` has the hooks by which a session is bound late. An older one is served by ids minted in advance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, built_image, require_engine

from .conftest import EXAMPLES, RunClient
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

HERE = Path(__file__).parent
NEWEST = "azure-ai-agentserver-responses==2.4.0b1\nazure-ai-agentserver-core==2.3.0b2\n"
WITHOUT_HOOKS = "azure-ai-agentserver-responses==2.3.0\nazure-ai-agentserver-core==2.2.0\n"


class Pooled:
    """An agent with a warm pool."""

    def __init__(self, rest: httpx.Client, name: str) -> None:
        self._rest = rest
        self.name = name
        base = str(rest.base_url).rstrip("/").rpartition("/api/projects/")
        self._own = f"{base[0]}/cupola/projects/{base[2]}/agents/{name}"

    def upload(self, folder: Path, size: int, requirements: str | None = None) -> None:
        body = code_zip(folder, "responses", requirements=requirements, metadata={"warm_pool": str(size)})
        made = self._rest.post(f"/agents/{self.name}/versions", **body)
        assert made.status_code == 200, made.text
        wait_until_active(self._rest, self.name, made.json()["version"])

    def wait_for(self, ready: int) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            [pool] = self._rest.get(f"{self._own}/warm").raise_for_status().json()["data"]
            if pool["ready"] >= ready:
                found: dict[str, Any] = pool
                return found
            time.sleep(0.1)
        raise AssertionError(f"the pool does not fill up: {pool}")

    def resize(self, size: int) -> None:
        self._rest.post(f"{self._own}/versions/1:warm", json={"warm_pool": size}).raise_for_status()

    def ask(self, **fields: Any) -> dict[str, Any]:
        url = f"/agents/{self.name}/endpoint/protocols/openai/v1/responses"
        answer = self._rest.post(url, json={"input": "hi", **fields})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "completed", answer.text
        body: dict[str, Any] = answer.json()
        return body

    def start_of(self, session: str) -> str:
        base = self._own.partition("/cupola/")[0]
        running = self._rest.get(f"{base}/cupola/status").raise_for_status().json()["running"]
        return next(str(one["start"]) for one in running if one["session"] == session)


@pytest.fixture
def pooled(rest: httpx.Client) -> Iterator[Pooled]:
    agent = Pooled(rest, f"warm-{uuid4().hex[:10]}")
    yield agent
    deleted = rest.delete(f"/agents/{agent.name}", params={"force": "true"})
    assert deleted.status_code in (200, 404), deleted.text  # 404: the test did not get as far


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def test_code_on_the_newest_adapter_takes_any_session(pooled: Pooled) -> None:
    """It was started without one; now all that it knows is the new session's, and its early token acts for it."""
    pooled.upload(HERE / "agents/warm", 2, NEWEST)
    assert pooled.wait_for(3)["binds_late"] is True
    response = pooled.ask(agent_session_id="my-own")
    told = json.loads(text_of(response))
    assert response["agent_session_id"] == "my-own"
    assert pooled.start_of("my-own") == "warm"
    check_late("my-own", told)
    again = json.loads(text_of(pooled.ask(agent_session_id="my-own", previous_response_id=response["id"])))
    assert again["earlier"] == 1


def check_late(session: str, told: dict[str, Any]) -> None:
    """What a late-bound container says of itself."""
    assert (told["environment"], told["configured"], told["context"]) == (session, session, session)
    assert (told["paused"], told["restored"]) == (1, [session])
    assert told["born"] == "without a session"
    assert told["early_token"] == 200
    assert len(told["guid"]) == 32


def test_code_without_the_hooks_is_served_by_minted_ids(pooled: Pooled) -> None:
    """A session without an id takes the one of the sandbox; one with an id starts cold."""
    pooled.upload(HERE / "agents/adapter", 2, WITHOUT_HOOKS)
    assert pooled.wait_for(2)["binds_late"] is False
    assert pooled.start_of(pooled.ask()["agent_session_id"]) == "warm"
    assert pooled.ask(agent_session_id="my-own")["agent_session_id"] == "my-own"
    assert pooled.start_of("my-own") == "cold"


@pytest.mark.parametrize("framework", ["agent-framework", "langgraph"])
def test_frameworks_take_any_session(pooled: Pooled, framework: str) -> None:
    """Agent Framework refuses every request of a container that does not know its session: it does by then."""
    pooled.upload(EXAMPLES / framework / "agent", 2)
    assert pooled.wait_for(3)["binds_late"] is True
    first = pooled.ask(agent_session_id="my-own", input="My name is Ada.")
    assert first["agent_session_id"] == "my-own"
    assert pooled.start_of("my-own") == "warm"
    second = pooled.ask(agent_session_id="my-own", input="Who?", previous_response_id=first["id"])
    assert "Before that you said: My name is Ada." in str(second["output"])


@pytest.mark.engine
@pytest.mark.operation("agents.create_version", "sessions.create", "responses.create")
def test_containers_take_any_session(platform: Platform, run_client: RunClient, pooled: Pooled, tmp_path: Path) -> None:
    """The same from an image, deployed and asked by the official SDK: by id, by create_session, by conversation."""
    require_engine()
    for source, name in (
        (HERE / "adapters/Dockerfile", "Dockerfile"),
        (HERE / "adapters/responses-2.4.0b1.txt", "requirements.txt"),
        (HERE / "agents/warm/main.py", "main.py"),
    ):
        (tmp_path / name).write_bytes(source.read_bytes())
    image = built_image("warm", tmp_path)
    pools = f"{platform.endpoint.partition('/api/')[0]}/cupola/projects/demo/agents/{pooled.name}/warm"
    found = run_client("newest", "sync", "warm", pooled.name, image, pools)
    assert found["metadata"] == {"warm_pool": "3", "team": "x"}
    assert (found["pool"]["wanted"], found["pool"]["binds_late"]) == (3, True)
    for session, told in found["told"].items():
        assert told["echoed"] == session
        check_late(session, told)
        assert pooled.start_of(session) == "warm"
    assert found["created"] == "active"
    assert found["bound"][0] == found["bound"][1]
    assert {turn["environment"] for turn in found["turns"]} == {found["bound"][0]}
    assert [turn["earlier"] for turn in found["turns"]] == [0, 1]
    assert pooled.start_of(found["bound"][0]) == "warm"
