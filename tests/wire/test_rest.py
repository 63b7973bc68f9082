"""Plain REST in the shapes that azd and curl send, where they differ from the SDK's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, tls_context

from .conftest import EXAMPLES
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

IMAGE = "registry.invalid/agent:1"


@pytest.fixture
def name() -> str:
    return f"rest-{uuid4().hex[:10]}"


def hosted(**changes: Any) -> dict[str, Any]:
    protocols = [{"protocol": "responses", "version": "1.0.0"}]
    definition = {"kind": "hosted", "cpu": "1", "memory": "2Gi", "image": IMAGE, **changes}
    return {**definition, "container_protocol_versions": protocols}


@pytest.mark.operation("agents.create", "agents.update", "agents.update_details", "agents.delete")
def test_an_agent_is_created_updated_and_deleted(rest: httpx.Client, name: str) -> None:
    """azd creates with POST /agents, updates with POST /agents/{name}, and always says whether it forces."""
    created = rest.post("/agents", json={"name": name, "definition": hosted()})
    assert created.status_code in (200, 201), created.text
    assert created.json()["versions"]["latest"]["version"] == "1"
    assert created.headers["x-request-id"]

    again = rest.post("/agents", json={"name": name, "definition": hosted()})
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "conflict"

    updated = rest.post(f"/agents/{name}", json={"definition": hosted(cpu="2", memory="4Gi")})
    assert updated.status_code == 200, updated.text
    assert updated.json()["versions"]["latest"]["version"] == "2"

    patched = rest.patch(
        f"/agents/{name}",
        json={
            "agent_endpoint": {
                "version_selector": {
                    "version_selection_rules": [
                        {"type": "FixedRatio", "agent_version": "@latest", "traffic_percentage": 100}
                    ]
                }
            }
        },
    )
    assert patched.status_code == 200, patched.text
    rules = patched.json()["agent_endpoint"]["version_selector"]["version_selection_rules"]
    assert [rule["agent_version"] for rule in rules] == ["@latest"]

    gone = rest.delete(f"/agents/{name}", params={"force": "false"})
    assert gone.status_code == 200, gone.text
    assert gone.json() == {"object": "agent.deleted", "name": name, "deleted": True}


@pytest.mark.operation("agents.list_versions")
def test_pages_end(rest: httpx.Client, name: str) -> None:
    """Pages follow each other by `after`, and a page behind the end has neither rows nor a last id."""
    for number in range(3):
        rest.post(
            f"/agents/{name}/versions", json={"definition": hosted(environment_variables={"N": str(number)})}
        ).raise_for_status()
    first = rest.get(f"/agents/{name}/versions", params={"limit": 2}).json()
    assert [row["version"] for row in first["data"]] == ["3", "2"]
    assert (first["object"], first["has_more"]) == ("list", True)
    second = rest.get(f"/agents/{name}/versions", params={"limit": 2, "after": first["last_id"]}).json()
    assert [row["version"] for row in second["data"]] == ["1"]
    assert second["has_more"] is False
    end = rest.get(f"/agents/{name}/versions", params={"limit": 2, "after": f"{name}:1"}).json()
    assert (end["data"], end["last_id"]) == ([], None)
    rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


def test_either_api_version_is_understood(rest: httpx.Client) -> None:
    """The control plane takes the api-version of every SDK generation."""
    for version in ("v1", "2025-11-15-preview"):
        assert rest.get("/agents", params={"api-version": version}).status_code == 200


def test_nobody_comes_in_without_a_token(platform: Platform) -> None:
    """Without a token, or with a made-up one, every route answers 401 in the envelope."""
    with httpx.Client(base_url=platform.endpoint, verify=tls_context(platform)) as stranger:
        for headers in ({}, {"Authorization": "Bearer made-up"}):
            for path in ("/agents", "/openai/v1/conversations/conv_1", "/agents/a/versions/1"):
                refused = stranger.get(path, params={"api-version": "v1"}, headers=headers)
                assert refused.status_code == 401, path
                assert refused.json()["error"]["code"]


@pytest.mark.operation("sign_in.token")
def test_the_sign_in_wants_its_header(platform: Platform) -> None:
    """The managed-identity endpoint gives a token only to who knows this installation's header."""
    query = {"api-version": "2019-08-01", "resource": "https://ai.azure.com"}
    url = platform.environment["IDENTITY_ENDPOINT"]
    for headers in ({}, {"X-IDENTITY-HEADER": "guess"}):
        assert httpx.get(url, params=query, headers=headers).status_code in (400, 401, 403)


def test_an_unknown_route_says_so(rest: httpx.Client) -> None:
    """What is not served answers in the envelope too."""
    unknown = rest.get("/nonsense")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"]


@pytest.mark.operation("agents.create", "invocations.create", "agents.download_code")
def test_azd_uploads_code_and_calls_it(rest: httpx.Client, name: str) -> None:
    """azd creates from code with a header for the name, then invokes within a session, and downloads."""
    upload = code_zip(EXAMPLES / "invocations" / "agent", "invocations", name=name)
    upload["headers"]["x-ms-agent-name"] = name
    created = rest.post("/agents", **upload)
    assert created.status_code in (200, 201), created.text
    wait_until_active(rest, name, "1")

    url = f"/agents/{name}/endpoint/protocols/invocations"
    answer = rest.post(url, json={"message": "one"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["calls"] == 1
    assert answer.headers["x-agent-invocation-id"]
    session = answer.headers["x-agent-session-id"]
    again = rest.post(url, json={"message": "two"}, params={"agent_session_id": session})
    assert again.json()["calls"] == 2
    assert answer.headers["x-request-id"] != again.headers["x-request-id"]

    download = rest.get(f"/agents/{name}/code:download", params={"agent_version": "1"})
    assert download.headers["x-ms-code-zip-sha256"] == upload["headers"]["x-ms-code-zip-sha256"]
    assert rest.delete(f"/agents/{name}").status_code == 409
    assert rest.delete(f"/agents/{name}", params={"force": "true"}).status_code == 200


LATENCY = "x-ms-debug-latency-"


@pytest.mark.operation("agents.create", "invocations.create", "sessions.stop")
def test_the_split_of_a_requests_time(rest: httpx.Client, name: str) -> None:
    """As azd reads it: whole numbers that add up, of the request's own kind of start."""
    upload = code_zip(EXAMPLES / "invocations" / "agent", "invocations", name=name)
    upload["headers"]["x-ms-agent-name"] = name
    assert rest.post("/agents", **upload).status_code in (200, 201)
    wait_until_active(rest, name, "1")
    url = f"/agents/{name}/endpoint/protocols/invocations"

    def split(**headers: str) -> dict[str, str]:
        answer = rest.post(url, json={"message": "x"}, params={"agent_session_id": "mine"}, headers=headers)
        assert (answer.status_code, answer.headers["x-agent-session-id"]) == (200, "mine")
        return {name[len(LATENCY) :]: value for name, value in answer.headers.items() if name.startswith(LATENCY)}

    assert split() == {}
    assert rest.post(f"/agents/{name}/endpoint/sessions/mine:stop").status_code == 204
    resumed, warm = (split(**{f"{LATENCY}enabled": "true"}) for _ in range(2))
    assert (resumed.pop("session-start-type"), warm.pop("session-start-type")) == ("resume", "warm")
    assert set(resumed) - set(warm) == {"infra-setup-ms", "container-readiness-ms"}
    assert int(resumed["container-readiness-ms"]) > 0
    for told in (resumed, warm):
        whole = int(told.pop("response-begin-ms"))
        assert sum(int(value) for value in told.values()) == whole
    assert rest.delete(f"/agents/{name}", params={"force": "true"}).status_code == 200
