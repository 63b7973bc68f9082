"""A2A with the official SDK's clients, of 0.3 and of today, over both transports, and as azd asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cupola.web.auth import Tokens
from tests.support.served import CHECKOUT, Platform, client_token, rest_client, tls_context

from .conftest import CLIENTS, EXAMPLES, RunScript
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

CARD = {
    "version": "1.0",
    "description": "Remembers what it was told",
    "skills": [{"id": "memory", "name": "Memory", "description": "Remembers"}],
}
ENABLED = {"agent_card": CARD, "agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}}}


@pytest.fixture(scope="module")
def agent(platform: Platform) -> Iterator[str]:
    """The quickstart's agent, built on the official adapter, with a card; deleted at the end."""
    name = f"a2a-{uuid4().hex[:10]}"
    with rest_client(platform) as rest:
        upload = code_zip(EXAMPLES / "quickstart" / "agent", "responses", name=name)
        upload["headers"]["x-ms-agent-name"] = name
        rest.post("/agents", **upload).raise_for_status()
        wait_until_active(rest, name, "1")
        rest.patch(f"/agents/{name}", json=ENABLED).raise_for_status()
        yield name
        rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


def base_of(platform: Platform, agent: str) -> str:
    return f"{platform.endpoint}/agents/{agent}/endpoint/protocols/a2a"


@pytest.mark.operation(
    "a2a.card", "a2a.send", "a2a.stream", "a2a.get_task", "a2a.cancel_task", "a2a.rpc", "a2a.card_1_0"
)
@pytest.mark.parametrize(
    ("generation", "card", "transport"),
    [
        ("a2a-0.3", "v0.3", "JSONRPC"),
        ("a2a-0.3", "v0.3", "HTTP+JSON"),
        ("a2a", "v0.3", "JSONRPC"),
        ("a2a", "v0.3", "HTTP+JSON"),
        ("a2a", "v1.0", "JSONRPC"),
        ("a2a", "v1.0", "HTTP+JSON"),
    ],
)
def test_the_official_clients(
    platform: Platform, run_script: RunScript, agent: str, generation: str, card: str, transport: str
) -> None:
    """Card, messages in one context, a stream, a task, one that is cancelled, and the errors of the protocol.

    The card decides which version the SDK of today speaks: with 1.0's it is 1.0 over JSON-RPC, 0.3 over HTTP+JSON.
    """
    script = CLIENTS / ("a2a_0_3.py" if generation == "a2a-0.3" else "a2a_newest.py")
    base = base_of(platform, agent)
    printed = run_script(generation, script, base, transport, f"agentCard/{card}", A2A_TOKEN=client_token(platform))
    seen = json.loads(printed.splitlines()[-1])

    assert seen["card"] == {"name": agent, "url": base, "version": "1.0", "streaming": True, "skills": ["memory"]}
    first, second = seen["first"], seen["second"]
    assert (first["state"], second["state"]) == ("completed", "completed")
    assert "You said: My name is Ada." in first["text"]
    assert first["context"] == second["context"]
    assert "I remember 1 earlier turn; the last time you said: My name is Ada." in second["text"]

    stream = seen["stream"]
    kinds = stream["kinds"]
    assert (kinds[0], kinds[-1]) == ("task", "status-update")
    assert set(kinds[1:-1]) == {"artifact-update"}
    assert len(kinds) > 5, "the text came in one piece"
    assert "You said: Tell me slowly." in stream["text"]
    assert stream["state"] == "completed"
    assert seen["got"] == {"state": "completed", "text": stream["text"]}

    _check_cancelled(seen, transport)
    _check_errors(seen["errors"], generation, transport)
    _check_isolation(platform, agent, seen["task"])


def _check_cancelled(seen: dict[str, Any], transport: str) -> None:
    """Over HTTP+JSON these clients cannot ask without waiting."""
    if transport == "JSONRPC":
        assert seen["begun"] in ("working", "submitted")
        assert seen["cancelled"] in ("canceled", "cancelled")
        assert seen["after"] in ("canceled", "cancelled")
    else:
        assert (seen["begun"], seen["after"]) == ("completed", "completed")


def _check_errors(errors: dict[str, Any], generation: str, transport: str) -> None:
    """The SDK 0.3 shows no more than the status of HTTP where there is one."""
    if generation == "a2a-0.3" and transport == "HTTP+JSON":
        assert errors == {"data": 415, "data streamed": 415, "unknown task": 404, "finished task": 409}
    else:
        assert errors == {"data": -32005, "data streamed": -32005, "unknown task": -32001, "finished task": -32002}


def _check_isolation(platform: Platform, agent: str, task: str) -> None:
    """To another caller of the same platform the task does not exist, by either transport."""
    tokens = Tokens(bytes.fromhex((platform.state / "secret").read_text().strip()))
    headers = {"Authorization": f"Bearer {tokens.mint_client('stranger')[0]}"}
    base = base_of(platform, agent)
    with httpx.Client(verify=tls_context(platform), headers=headers) as stranger:
        assert stranger.get(f"{base}/agentCard/v0.3").status_code == 200
        for method in ("tasks/get", "tasks/cancel"):
            call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"id": task}}
            assert stranger.post(base, json=call).json()["error"]["code"] == -32001
        assert stranger.get(f"{base}/v1/tasks/{task}").status_code == 404
        assert stranger.post(f"{base}/v1/tasks/{task}:cancel").status_code == 404


@pytest.mark.operation("a2a.card")
def test_the_card_needs_a_token(platform: Platform, agent: str) -> None:
    """Every card; the well-known place has the same one as Azure's own place for 0.3."""
    with httpx.Client(verify=tls_context(platform)) as stranger:
        for path in ("agentCard/v0.3", "agentCard/v1.0", ".well-known/agent-card.json"):
            assert stranger.get(f"{base_of(platform, agent)}/{path}").status_code == 401
    with rest_client(platform) as rest:
        cards = [
            rest.get(f"{base_of(platform, agent)}/{path}").raise_for_status().json()
            for path in ("agentCard/v0.3", ".well-known/agent-card.json")
        ]
        assert cards[0] == cards[1]


@pytest.mark.operation("a2a.card", "a2a.stream")
def test_the_guide_says_how(run_script: RunScript, agent: str, tmp_path: Path) -> None:
    """The script of docs/a2a.md runs as it stands there."""
    (script,) = re.findall(r"```python\n(.+?)```", (CHECKOUT / "docs" / "a2a.md").read_text(), re.DOTALL)
    (tmp_path / "guide.py").write_text(script.replace("my-agent", agent))
    printed = run_script("a2a", tmp_path / "guide.py")
    assert "TASK_STATE_COMPLETED" in printed
    assert "order" in printed


@pytest.mark.operation("a2a.send")
def test_azd_invokes(rest: httpx.Client, agent: str) -> None:
    """azd's request, byte by byte of its meaning: the session in the query is what carries the talk on."""

    def invoke(text: str, **query: str) -> httpx.Response:
        call = {
            "jsonrpc": "2.0",
            "id": str(uuid4()),
            "method": "message/send",
            "params": {
                "message": {
                    "role": "user",
                    "messageId": str(uuid4()),
                    "parts": [{"kind": "text", "text": text}],
                }
            },
        }
        url = f"/agents/{agent}/endpoint/protocols/a2a"
        answer = rest.post(url, json=call, params=query, headers={"A2A-Version": "0.3"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == call["id"]
        return answer

    first = invoke("one", agent_session_id=uuid4().hex)
    session = first.headers["x-agent-session-id"]
    second = invoke("two", agent_session_id=session)
    assert second.headers["x-agent-session-id"] == session
    (made,) = second.json()["result"]["artifacts"]
    assert "the last time you said: one" in made["parts"][0]["text"]
    assert invoke("three").headers["x-agent-session-id"] != session
