"""The official adapter on sandboxes that are forked from a prepared parent: each is its own session in everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cupola.drivers.fork_server import FORK
from tests.support.served import Platform

from .packing import code_zip, wait_until_active

pytestmark = [
    pytest.mark.wire,
    pytest.mark.operation("responses.create"),
    pytest.mark.skipif(sys.platform != "linux", reason="forking a sandbox needs Linux"),
]

AGENT = Path(__file__).parent / "agents" / "forked"


def forked_from(platform: Platform, agent: str) -> list[str | None]:
    """Of which parents the sandboxes of an agent are children."""
    records = [json.loads(file.read_text()) for file in platform.state.glob("**/sandboxes/*.json")]
    return [
        one["parent"] for one in records if one["labels"]["cupola.agent"] == agent and "cupola.session" in one["labels"]
    ]


def test_the_official_adapter_is_forked_and_is_its_own_session(platform: Platform, rest: httpx.Client) -> None:
    """Configuration, tokens, history and files are the session's, though all was made before the fork."""
    name = f"forked-{uuid4().hex[:10]}"
    made = rest.post(f"/agents/{name}/versions", **code_zip(AGENT, "responses", environment={FORK: "1"}))
    assert made.status_code == 200, made.text
    version = wait_until_active(rest, name, made.json()["version"])
    assert not version.get("warnings"), version

    def say(text: str, session: str, previous: str | None = None) -> tuple[Any, str]:
        body = {"input": text, "agent_session_id": session, "store": True}
        if previous is not None:
            body["previous_response_id"] = previous
        answer = rest.post(f"/agents/{name}/endpoint/protocols/openai/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        (text,) = [part["text"] for item in answer.json()["output"] for part in item["content"]]
        return json.loads(text), answer.json()["id"]

    sessions = [f"{letter}-{uuid4().hex}" for letter in "abc"]
    guids = set()
    for session in sessions:
        told, first = say("hello", session)
        assert told["remembered"] == told["config"][0] == told["environment"][0] == session
        assert told["config"] == told["environment"]
        assert [one["session"] for one in told["tokens"]] == [session, session], told["tokens"]
        assert (told["history"], told["notes"]) == (0, ["hello"])
        guids.add(told["config"][1])
        told, _ = say("again", session, first)
        assert told["history"] > 0
        assert told["notes"] == ["hello", "again"]
    assert len(guids) == len(sessions)
    found = forked_from(platform, name)
    assert len(found) >= len(sessions)
    assert len(set(found)) == 1
    assert None not in found
    rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()
    assert forked_from(platform, name) == []


def test_an_agent_that_cannot_be_forked_says_so_on_its_version(rest: httpx.Client, tmp_path: Path) -> None:
    """It is started as ever, and works."""
    plain = (AGENT.parent / "plain" / "main.py").read_text()
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    future = "from __future__ import annotations\n"
    assert future in plain
    (tmp_path / "main.py").write_text(plain.replace(future, future + thread))
    (tmp_path / "requirements.txt").write_text("")
    name = f"threads-{uuid4().hex[:10]}"
    made = rest.post(f"/agents/{name}/versions", **code_zip(tmp_path, "responses", environment={FORK: "1"}))
    assert made.status_code == 200, made.text
    version = wait_until_active(rest, name, made.json()["version"])
    (warning,) = version["warnings"]
    assert "CUPOLA_FORK" in warning
    assert "it has started threads before it serves" in warning
    answer = rest.post(f"/agents/{name}/endpoint/protocols/openai/v1/responses", json={"input": "hello"})
    assert answer.status_code == 200, answer.text
    rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()
