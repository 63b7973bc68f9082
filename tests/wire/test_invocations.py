"""The invocations protocol, from plain HTTP to the official adapter in a sandbox and back."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from .deployed import Deployments, endpoint

pytestmark = pytest.mark.wire


@pytest.fixture(params=["stable", "prerelease"])
def path(agents: Deployments, request: pytest.FixtureRequest) -> str:
    """The invocations of an agent on that generation of the adapter."""
    return endpoint(agents.invocations(request.param), "invocations")


@pytest.mark.operation("invocations.create")
def test_any_body_passes(rest: httpx.Client, path: str) -> None:
    """Bytes and content type come back; adapter, platform and caller agree on session and invocation."""
    body = bytes(range(256)) * 512
    answer = rest.post(path, content=body, headers={"content-type": "image/x-own", "x-agent-invocation-id": "forged"})
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "image/x-own"
    assert answer.headers["x-told-invocation"] == answer.headers["x-agent-invocation-id"] != "forged"
    assert answer.headers["x-told-session"] == answer.headers["x-agent-session-id"]


@pytest.mark.operation("invocations.create")
def test_only_the_query_names_a_session(rest: httpx.Client, path: str) -> None:
    """A body field and a header of that name do not."""
    session = f"s-{uuid4().hex[:8]}"
    answer = rest.post(
        path,
        json={"agent_session_id": "body"},
        params={"agent_session_id": session},
        headers={"x-agent-session-id": "header"},
    )
    assert answer.headers["x-told-session"] == answer.headers["x-agent-session-id"] == session
    assert answer.json() == {"agent_session_id": "body"}


@pytest.mark.operation("invocations.create")
def test_replies_stream(rest: httpx.Client, path: str) -> None:
    """Events of the handler's own, until it is done."""
    with rest.stream("POST", path, json={}, params={"mode": "stream"}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert [line for line in reply.iter_lines() if line.startswith("data")] == ["data: 0", "data: 1", "data: 2"]


@pytest.mark.operation("invocations.create", "invocations.get")
def test_an_invocation_that_takes_its_time(rest: httpx.Client, path: str) -> None:
    """As azd does it: 202 with the id, then polling with nothing but the id while Retry-After asks for it."""
    begun = rest.post(path, json={}, params={"mode": "later"})
    assert (begun.status_code, begun.headers["retry-after"]) == (202, "2")
    invocation = begun.headers["x-agent-invocation-id"]
    polled = rest.get(f"{path}/{invocation}")
    assert (polled.status_code, polled.headers["retry-after"]) == (202, "1")
    assert polled.headers["x-agent-session-id"] == begun.headers["x-agent-session-id"]
    ended = rest.get(f"{path}/{invocation}")
    assert (ended.status_code, ended.json()["status"]) == (200, "completed")


@pytest.mark.operation("invocations.get")
def test_an_invocation_that_is_not_registered(rest: httpx.Client, path: str) -> None:
    """The handler's 404 passes where the invocation is ours, and ours is a 404 where it is not: azd polls on."""
    begun = rest.post(path, json={})
    polled = rest.get(f"{path}/{begun.headers['x-agent-invocation-id']}")
    assert polled.status_code == 404
    assert polled.json() == {"error": {"code": "not_found", "message": "never heard of it"}}
    assert rest.get(f"{path}/inv_{uuid4().hex}").json()["error"]["code"] == "not_found"


@pytest.mark.operation("invocations.cancel")
def test_an_invocation_is_cancelled(rest: httpx.Client, path: str) -> None:
    """The handler says how it ended, and so does the next poll."""
    begun = rest.post(path, json={}, params={"mode": "later"})
    invocation = begun.headers["x-agent-invocation-id"]
    cancelled = rest.post(f"{path}/{invocation}/cancel")
    assert (cancelled.status_code, cancelled.json()["error"]["code"]) == (200, "cancelled")
    assert rest.get(f"{path}/{invocation}").json()["status"] == "failed"


@pytest.mark.operation("invocations.docs")
def test_the_agents_documents(rest: httpx.Client, path: str) -> None:
    """All three kinds."""
    assert rest.get(f"{path}/docs/openapi.json").json()["openapi"] == "3.1.0"
    assert rest.get(f"{path}/docs/asyncapi.json").json()["asyncapi"] == "3.0.0"
    written = rest.get(f"{path}/docs/asyncapi.yaml")
    assert (written.text, written.headers["content-type"]) == ("asyncapi: 3.0.0\n", "application/yaml; charset=utf-8")


@pytest.mark.operation("invocations.create")
def test_a_handler_that_fails(rest: httpx.Client, path: str) -> None:
    """The adapter's own 500, without what is for the platform's log."""
    answer = rest.post(path, json={}, params={"mode": "fail"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "x-platform-error-detail" not in answer.headers


@pytest.mark.operation("invocations.create", "invocations.get", "invocations.cancel", "invocations.docs")
def test_an_agent_without_handlers(rest: httpx.Client, agents: Deployments) -> None:
    """The adapter's 501 and 404 pass with its envelope."""
    path = endpoint(agents.invocations("stable", bare=True), "invocations")
    begun = rest.post(path, json={})
    assert (begun.status_code, begun.json()["error"]["code"]) == (501, "not_implemented")
    known = f"{path}/{begun.headers['x-agent-invocation-id']}"
    for answer in (rest.get(known), rest.post(f"{known}/cancel"), rest.get(f"{path}/docs/openapi.json")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
