"""The activity protocol, from plain HTTP to the official adapter in a sandbox and back."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from .deployed import Deployments, endpoint

pytestmark = pytest.mark.wire


def message(**fields: object) -> dict[str, object]:
    return {
        "type": "message",
        "id": f"act-{uuid4().hex[:8]}",
        "channelId": "test",
        "serviceUrl": "https://channel.invalid/",
        "from": {"id": "user-1", "name": "Ada"},
        "recipient": {"id": "agent-1", "name": "Agent"},
        "conversation": {"id": "talk-1"},
        "text": "hello",
        "deliveryMode": "expectReplies",
        **fields,
    }


@pytest.mark.operation("activity.send")
@pytest.mark.parametrize("spelling", ["activityprotocol", "activityProtocol", "activity"])
def test_the_answer_is_in_the_body(rest: httpx.Client, agents: Deployments, spelling: str) -> None:
    """With `expectReplies`, for each spelling of the path that documents and tools use."""
    session = f"s-{spelling}-{uuid4().hex[:8]}"
    activity = message()
    answer = rest.post(endpoint(agents.activity(), spelling), json=activity, params={"agent_session_id": session})
    assert answer.status_code == 200, answer.text
    assert [said["text"] for said in answer.json()["activities"]] == ["Echo: hello"]
    assert answer.headers["x-agent-session-id"] == session
    assert answer.headers["x-agent-activity-id"] == activity["id"]


@pytest.mark.operation("activity.send")
def test_what_is_no_activity(rest: httpx.Client, agents: Deployments) -> None:
    """The adapter's own 400 passes with its envelope."""
    answer = rest.post(endpoint(agents.activity(), "activity"), content=b"no json")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert answer.headers["x-agent-session-id"]


@pytest.mark.operation("activity.send")
def test_an_agent_that_does_not_declare_it(rest: httpx.Client, agents: Deployments) -> None:
    """400 with what it declares."""
    answer = rest.post(endpoint(agents.invocations("stable"), "activity"), json=message())
    assert answer.status_code == 400
    assert "declares invocations, invocations_ws" in answer.json()["error"]["message"]
