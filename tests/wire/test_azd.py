"""The control plane in the shapes of azd: plain REST, where it differs from the SDK's (control-plane.md §2.1 to §2.4).

Two agents are enough: one of an image that nobody can pull, which needs no engine, and one from code, which becomes
active.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, rest_client

from .conftest import EXAMPLES
from .packing import DEADLINE, code_zip, wait_until_active

pytestmark = pytest.mark.wire

IMAGE = "registry.invalid/agent:1"
FOLDER = EXAMPLES / "invocations" / "agent"


def hosted(**changes: Any) -> dict[str, Any]:
    """A definition as azd writes it from azure.yaml."""
    return {
        "kind": "hosted",
        "cpu": "1.0",
        "memory": "2.0Gi",
        "container_configuration": {"image": IMAGE},
        "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
        "environment_variables": {"MODEL_NAME": "gpt-4o-mini"},
        **changes,
    }


@pytest.fixture
def name(rest: httpx.Client) -> Iterator[str]:
    """A name; the agent that gets it is deleted afterwards."""
    chosen = f"azd-{uuid4().hex[:10]}"
    yield chosen
    rest.delete(f"/agents/{chosen}", params={"force": "true"})


@pytest.fixture(scope="module")
def coded(platform: Platform) -> Iterator[str]:
    """An agent from code with two active versions."""
    chosen = f"azd-{uuid4().hex[:10]}"
    with rest_client(platform) as rest:
        first = code_zip(FOLDER, "invocations", name=chosen)
        first["headers"]["x-ms-agent-name"] = chosen
        created = rest.post("/agents", **first)
        assert created.status_code in (200, 201), created.text
        wait_until_active(rest, chosen, "1")
        updated = rest.post(f"/agents/{chosen}", **described(first, "second"))
        assert updated.status_code == 200, updated.text
        wait_until_active(rest, chosen, "2")
        yield chosen
        rest.delete(f"/agents/{chosen}", params={"force": "true"}).raise_for_status()


def described(upload: dict[str, Any], description: str) -> dict[str, Any]:
    """The same upload with another description, and so another version."""
    _, body, kind = upload["files"]["metadata"]
    metadata = json.dumps({**json.loads(body), "description": description})
    return {**upload, "files": {**upload["files"], "metadata": (None, metadata, kind)}}


def twice_the_same(rest: httpx.Client, name: str, version: str) -> dict[str, Any]:
    """azd believes a final status only when it has read it twice in a row."""
    deadline = time.monotonic() + DEADLINE
    last = None
    while time.monotonic() < deadline:
        found: dict[str, Any] = rest.get(f"/agents/{name}/versions/{version}").raise_for_status().json()
        if found["status"] != "creating" and found["status"] == last:
            return found
        last = found["status"]
        time.sleep(0.1)
    raise AssertionError(f"version {version} of {name} has no final status after {DEADLINE:.0f} s")


@pytest.mark.operation("agents.create", "agents.get", "agents.delete")
def test_create_show_delete(rest: httpx.Client, name: str) -> None:
    """`POST /agents` with the endpoint in it, `GET`, and `DELETE` that always says whether it forces."""
    endpoint = {"protocol_configuration": {"responses": {}}, "authorization_schemes": [{"type": "Entra"}]}
    body = {"name": name, "definition": hosted(), "description": "d", "agent_endpoint": endpoint}
    created = rest.post("/agents", json=body)
    assert created.status_code in (200, 201), created.text
    shown = rest.get(f"/agents/{name}").json()
    assert shown["instance_identity"]["principal_id"]
    assert shown["agent_endpoint"]["protocol_configuration"] == {"responses": {}}
    latest = shown["versions"]["latest"]
    assert (latest["version"], latest["description"]) == ("1", "d")
    assert rest.post("/agents", json=body).status_code == 409
    twice_the_same(rest, name, "1")
    gone = rest.delete(f"/agents/{name}", params={"force": "false"})
    assert (gone.status_code, gone.json()["deleted"]) == (200, True)
    assert rest.get(f"/agents/{name}").status_code == 404


@pytest.mark.operation("agents.create_version", "agents.get_version")
def test_a_version_is_read_in_either_spelling(rest: httpx.Client, name: str) -> None:
    """`container_configuration.image` first, `image` next; the same for the two lists of protocols."""
    older = {
        "kind": "hosted",
        "image": IMAGE,
        "container_protocol_versions": [{"protocol": "responses", "version": "v1"}],
        "cpu": "1",
        "memory": "2Gi",
    }
    for number, definition in enumerate((hosted(), older), start=1):
        made = rest.post(f"/agents/{name}/versions", json={"definition": definition})
        assert made.status_code in (200, 201), made.text
        shown = twice_the_same(rest, name, str(number))["definition"]
        assert shown["container_configuration"]["image"] == shown["image"] == IMAGE
        assert shown["protocol_versions"] == shown["container_protocol_versions"]
        assert shown["protocol_versions"][0]["protocol"] == "responses"
        assert {**shown, **definition} == shown


@pytest.mark.operation("agents.get_version")
def test_a_failed_version_is_final(rest: httpx.Client, name: str) -> None:
    """Polled until two readings agree, it says why, with the service's code."""
    rest.post(f"/agents/{name}/versions", json={"definition": hosted()}).raise_for_status()
    failed = twice_the_same(rest, name, "1")
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "ImageError"
    assert failed["error"]["message"]


@pytest.mark.operation("agents.create", "agents.update", "agents.create_version", "agents.download_code")
def test_code_is_created_updated_and_downloaded(rest: httpx.Client, coded: str) -> None:
    """The name in `x-ms-agent-name`, then `POST /agents/{name}`; the same code again is no new version."""
    upload = described(code_zip(FOLDER, "invocations", name=coded), "second")
    again = rest.post(f"/agents/{coded}", **upload)
    assert again.status_code == 200, again.text
    latest = again.json()["versions"]["latest"]
    assert (latest["version"], latest["status"]) == ("2", "active")
    assert latest["definition"]["code_configuration"]["content_hash"] == upload["headers"]["x-ms-code-zip-sha256"]
    code = rest.get(f"/agents/{coded}/code:download", params={"agent_version": "1"})
    assert code.headers["content-type"] == "application/zip"
    assert hashlib.sha256(code.content).hexdigest() == code.headers["x-ms-code-zip-sha256"]
    assert code.headers["x-ms-agent-version"] == "1"
    assert "main.py" in zipfile.ZipFile(io.BytesIO(code.content)).namelist()


@pytest.mark.operation("agents.update_details")
@pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json"])
def test_traffic_is_split(rest: httpx.Client, coded: str, content_type: str) -> None:
    """A canary by either content type; what is omitted stays, null goes back to the latest."""

    def patch(body: Any) -> Any:
        answer = rest.patch(f"/agents/{coded}", content=json.dumps(body), headers={"content-type": content_type})
        assert answer.status_code == 200, answer.text
        return answer.json()["agent_endpoint"]

    rules = [
        {"type": "FixedRatio", "agent_version": version, "traffic_percentage": share}
        for version, share in (("1", 90), ("2", 10))
    ]
    selected = patch({"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}})
    assert selected["version_selector"]["version_selection_rules"] == rules
    schemes = [{"type": "Entra", "isolation_key_source": {"kind": "Header"}}, {"type": "BotServiceRbac"}]
    changed = patch({"agent_endpoint": {"authorization_schemes": schemes}})
    assert changed["authorization_schemes"] == schemes
    assert changed["version_selector"]["version_selection_rules"] == rules
    cleared = patch({"agent_endpoint": {"version_selector": None}})
    assert [rule["agent_version"] for rule in cleared["version_selector"]["version_selection_rules"]] == ["@latest"]
    assert cleared["authorization_schemes"] == schemes


@pytest.mark.operation("agents.update_details")
def test_protocols_in_either_spelling(rest: httpx.Client, coded: str) -> None:
    """azd sets the list `protocols` or the map `protocol_configuration`, and reads both."""
    for body in (
        {"protocols": ["invocations", "activity_protocol"]},
        {"protocol_configuration": {"invocations": {}, "activity": {"enable_m365_public_endpoint": True}}},
    ):
        shown = rest.patch(f"/agents/{coded}", json={"agent_endpoint": body}).raise_for_status().json()
        endpoint = shown["agent_endpoint"]
        assert sorted(endpoint["protocol_configuration"]) == ["activity", "invocations"]
        assert len(endpoint["protocols"]) == 2
    back = rest.patch(f"/agents/{coded}", json={"agent_endpoint": None}).raise_for_status().json()
    assert list(back["agent_endpoint"]["protocol_configuration"]) == ["invocations"]


@pytest.mark.operation("agents.disable", "agents.enable")
def test_disable_and_enable(rest: httpx.Client, coded: str) -> None:
    """204 without a body, as often as one likes."""
    for action, state in (("disable", "disabled"), ("disable", "disabled"), ("enable", "enabled")):
        answer = rest.post(f"/agents/{coded}:{action}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert rest.get(f"/agents/{coded}").json()["state"] == state


@pytest.mark.operation("agents.update_details", "agents.create_version")
def test_refusals_are_printed_as_they_are(rest: httpx.Client, coded: str) -> None:
    """azd prints `error.code` and `error.message`, and the request id of the header."""
    rules = [{"type": "FixedRatio", "agent_version": "7", "traffic_percentage": 100}]
    patch = {"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}}
    for refused, said in (
        (rest.patch(f"/agents/{coded}", json=patch), "no version '7'"),
        (rest.post(f"/agents/{coded}", json={"definition": hosted(cpu="64")}), "'64'"),
        (rest.post(f"/agents/{coded}/versions", content=b"{", headers={"content-type": "application/json"}), "JSON"),
    ):
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["code"]
        assert said in error["message"]
        assert refused.headers["x-request-id"] == refused.headers["apim-request-id"]
    assert rest.get(f"/agents/{coded}").json()["versions"]["latest"]["version"] == "2"


@pytest.mark.parametrize(
    "path", ["/agents:import", "/agents:generate", "/agents/a/import", "/agents/a/versions:import"]
)
def test_what_is_not_offered_says_so(rest: httpx.Client, path: str) -> None:
    """501 with a sentence, and no agent of a strange name."""
    refused = rest.post(path, json={"manifest_id": "m", "parameter_values": {}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (501, "not_implemented")


@pytest.mark.operation("sessions.create", "sessions.get", "sessions.list", "sessions.stop", "sessions.delete")
def test_sessions_from_their_beginning_to_their_end(rest: httpx.Client, coded: str) -> None:
    """Created with an id and a version, found page by page with `pagination_token`, stopped, resumed, deleted."""
    sessions = f"/agents/{coded}/endpoint/sessions"
    indicator = {"type": "version_ref", "agent_version": "1"}
    for session in ("one", "two", "three"):
        made = rest.post(sessions, json={"agent_session_id": session, "version_indicator": indicator})
        assert made.status_code == 201, made.text
        assert (made.json()["agent_session_id"], made.json()["version_indicator"]) == (session, indicator)
    found, token = [], None
    while True:
        page = rest.get(sessions, params={"limit": 2, **({"pagination_token": token} if token else {})}).json()
        found += [entry["agent_session_id"] for entry in page["data"]]
        token = page["pagination_token"]
        if not token:
            break
    assert found == ["three", "two", "one"]
    invoke = f"/agents/{coded}/endpoint/protocols/invocations"
    assert rest.post(invoke, params={"agent_session_id": "one"}, json={}, timeout=DEADLINE).status_code == 200
    shown = rest.get(f"{sessions}/one").json()
    assert (shown["status"], shown["stopped_at"]) == ("active", None)
    assert shown["expires_at"] - shown["last_accessed_at"] == 30 * 24 * 3600
    for _ in range(2):
        assert rest.post(f"{sessions}/one:stop", timeout=DEADLINE).status_code == 204
    shown = rest.get(f"{sessions}/one").json()
    assert shown["status"] == "idle"
    assert shown["stopped_at"] >= shown["last_accessed_at"]
    assert shown["usage"]["seconds"] > 0
    assert rest.delete(f"/agents/{coded}/versions/1", params={"force": "false"}).status_code == 409
    own = f"{rest.base_url.copy_with(path='/cupola/projects/demo')}"
    assert rest.post(f"{own}/agents/{coded}/sessions/two:kill").status_code == 204
    answer = rest.post(f"{own}/sessions:stop", json={"agent": coded, "grace": 1}, timeout=DEADLINE)
    assert (answer.status_code, answer.json()["failed"]) == (200, [])
    for session in (*found, "never-was"):
        assert rest.delete(f"{sessions}/{session}", timeout=DEADLINE).status_code == 204
        assert rest.get(f"{sessions}/{session}").status_code == 404
