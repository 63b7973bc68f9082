"""Agents on the hosts of Agent Framework and of LangChain, unmodified: they keep their state with the platform.

As code; `test_images.py` has the same talk with their containers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, finish, forget, free_port, rest_client

from .conftest import EXAMPLES, RunScript, cupola
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

IDLE_TIMEOUT = 3.0
every_framework = pytest.mark.parametrize("framework", ["agent-framework", "langgraph"])


@every_framework
def test_the_example_talks(run_script: RunScript, framework: str) -> None:
    """It answers, streams, calls its tool, and remembers a conversation and a chain."""
    show_the_example_talks(run_script, framework)


def show_the_example_talks(run_script: RunScript, framework: str, **environment: str) -> None:
    name = f"{framework}-{uuid4().hex[:10]}"
    printed = run_script("newest", EXAMPLES / framework / "talk.py", AGENT_NAME=name, **environment)
    assert "Hello! You said: What can you do?" in printed
    assert "Hello! You said: Tell me slowly." in printed
    assert 'order_status({"number": 17})' in printed
    assert "I have looked it up: Order 17 is on its way." in printed
    assert "Before that you said: My name is Ada. / Where is order 17?" in printed
    assert "You said: And the next? Before that you said: Say a number." in printed
    assert f"Deleted:    {name}" in printed


@contextmanager
def hasty_platform(state: Path) -> Iterator[Platform]:
    """A platform of its own that stops a sandbox after a few seconds without a request."""
    up = [sys.executable, "-m", "cupola", "up", "--detach", "--port", str(free_port()), "--state-dir", str(state)]
    finish(up, {**os.environ, "CUPOLA_IDLE_TIMEOUT": str(IDLE_TIMEOUT), "CUPOLA_DRIVER": "process"}, timeout=90)
    try:
        yield Platform(state, json.loads(cupola(state, "env", "--format", "json")))
    finally:
        cupola(state, "down")
        forget(state)


class Talk:
    """One agent, deployed from an example's folder, and what is said to it."""

    def __init__(self, rest: httpx.Client, framework: str, **environment: str) -> None:
        self._rest = rest
        self._name = f"{framework}-{uuid4().hex[:10]}"
        upload = code_zip(EXAMPLES / framework / "agent", "responses", environment=environment)
        made = rest.post(f"/agents/{self._name}/versions", **upload)
        assert made.status_code == 200, made.text
        wait_until_active(rest, self._name, made.json()["version"])

    def say(self, text: str, **fields: Any) -> dict[str, Any]:
        url = f"/agents/{self._name}/endpoint/protocols/openai/v1/responses"
        answer = self._rest.post(url, json={"input": text, **fields})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        assert body["status"] == "completed", body
        return body

    def conversation(self) -> str:
        url = f"/agents/{self._name}/endpoint/protocols/openai/v1/conversations"
        return str(self._rest.post(url, json={}).raise_for_status().json()["id"])

    def sandboxes(self) -> int:
        base = str(self._rest.base_url).partition("/api/")[0]
        return int(self._rest.get(f"{base}/cupola/status").raise_for_status().json()["sandboxes"])

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while self.sandboxes():
            assert time.monotonic() < deadline, "the sandboxes are still running"
            time.sleep(0.1)


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


@every_framework
@pytest.mark.operation("state_stores.create_item", "state_stores.put_item", "state_stores.get_item")
def test_what_they_remember_outlives_the_sandbox(tmp_path: Path, framework: str) -> None:
    """After the idle time-out another process of the same session goes on with the conversation and with the chain."""
    with hasty_platform(tmp_path / "state") as platform, rest_client(platform) as rest:
        talk = Talk(rest, framework)
        conversation = talk.conversation()
        first = talk.say("My name is Ada.", conversation=conversation)
        session = first["agent_session_id"]
        link = talk.say("One.", agent_session_id=session)
        talk.wait_until_idle()
        second = talk.say("Who am I?", conversation=conversation)
        assert second["agent_session_id"] == session
        assert text_of(second) == "You said: Who am I? Before that you said: My name is Ada."
        chained = talk.say("Two.", agent_session_id=session, previous_response_id=link["id"])
        assert text_of(chained) == "You said: Two. Before that you said: One."


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible model that calls the tool it is offered, then repeats what that said."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append({**asked, "path": self.path, "key": self.headers["authorization"]})
        last = asked["messages"][-1]
        said: dict[str, Any] = {"role": "assistant", "content": f"The tool says: {last['content']}"}
        if last["role"] == "user":
            function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"number": 17}'}
            said["content"] = None
            said["tool_calls"] = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        choice = {"index": 0, "finish_reason": "stop" if said["content"] else "tool_calls"}
        frame = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
        if asked.get("stream"):
            chunk = {**frame, "object": "chat.completion.chunk", "choices": [{**choice, "delta": said}]}
            self._answer("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")
        else:
            whole = {**frame, "object": "chat.completion", "choices": [{**choice, "message": said}]}
            self._answer("application/json", json.dumps(whole))

    def _answer(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@every_framework
def test_a_model_is_asked_where_there_is_one(platform: Platform, framework: str) -> None:
    """With MODEL_NAME the agent asks that model, hands it the tool, and what the tool said."""

    class Own(Model):
        asked: ClassVar[list[dict[str, Any]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server, rest_client(platform) as rest:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            talk = Talk(rest, framework, MODEL_NAME="m1", OPENAI_BASE_URL=url, OPENAI_API_KEY="k1")
            assert text_of(talk.say("Where is order 17?")) == "The tool says: Order 17 is on its way."
        finally:
            server.shutdown()
    assert [(one["path"], one["model"], one["key"]) for one in Own.asked] == [
        ("/v1/chat/completions", "m1", "Bearer k1")
    ] * 2
