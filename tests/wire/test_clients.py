"""The official SDK, unmodified, of two generations, sync and async, against a running platform."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from .conftest import EXAMPLES, GENERATIONS, Platform, RunClient, rest_client
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

every_client = pytest.mark.parametrize(
    ("generation", "mode"), [(generation, mode) for generation in GENERATIONS for mode in ("sync", "async")]
)
newest_client = pytest.mark.parametrize("mode", ["sync", "async"])


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex[:10]}"


@every_client
def test_signs_in_offline(run_client: RunClient, generation: str, mode: str) -> None:
    """`DefaultAzureCredential()` works with what `cupola env` prints, without waiting for anything in Azure."""
    found = run_client(generation, mode, "sign_in")
    assert found["seconds"] < 10


@every_client
def test_versions_are_made_read_listed_and_deleted(run_client: RunClient, generation: str, mode: str) -> None:
    """Each operation on agents and versions answers in a shape that the SDK understands."""
    name = unique("crud")
    found = run_client(generation, mode, "crud", name)

    assert [version["version"] for version in found["made"]] == ["1", "2", "3", "4", "5"]
    first = found["made"][0]
    assert first["object"] == "agent.version"
    assert first["id"] == f"{name}:1"
    assert first["name"] == name
    assert first["description"] == "number 1"
    assert first["metadata"] == {"number": "1"}
    assert isinstance(first["created_at"], int)
    assert first["definition"]["kind"] == "hosted"
    assert first["definition"]["environment_variables"] == {"NUMBER": "1"}

    assert found["agent"]["object"] == "agent"
    assert found["agent"]["name"] == name
    assert found["agent"]["versions"]["latest"]["version"] == "5"
    assert found["second"]["version"] == "2"
    assert found["paged"] == ["5", "4", "3", "2", "1"]
    assert found["ascending"] == ["1", "2", "3", "4", "5"]
    assert name in found["agents"]

    assert found["deleted_version"] == deleted("agent.version.deleted", name, version="1")
    assert refused(found["gone_version"]) == ("ResourceNotFoundError", 404, "not_found")
    assert found["left"] == ["5", "4", "3", "2"]
    assert found["deleted"] == deleted("agent.deleted", name)
    assert refused(found["gone"]) == ("ResourceNotFoundError", 404, "not_found")


@every_client
def test_both_spellings_of_a_definition_come_back(run_client: RunClient, generation: str, mode: str) -> None:
    """A definition of either generation is echoed as it was written, and as the other generation reads it."""
    definition = run_client(generation, mode, "crud", unique("spelling"))["second"]["definition"]
    assert definition["image"] == "registry.invalid/agent:1"
    assert definition["container_configuration"]["image"] == "registry.invalid/agent:1"
    assert definition["container_protocol_versions"] == definition["protocol_versions"]
    assert definition["protocol_versions"][0]["protocol"] == "responses"
    assert (definition["cpu"], definition["memory"]) == ("1", "2Gi")


@every_client
def test_a_version_that_cannot_start_says_why(run_client: RunClient, generation: str, mode: str) -> None:
    """An image that nobody can pull ends `failed`, with a code and a sentence in `version["error"]`."""
    failed = run_client(generation, mode, "crud", unique("failed"))["failed"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"]
    assert "registry.invalid/agent:1" in failed["error"]["message"]


@every_client
def test_what_cannot_be_is_refused(run_client: RunClient, generation: str, mode: str) -> None:
    """Bad input and unknown names raise the exception that users catch, with a code and one clear sentence."""
    found = run_client(generation, mode, "errors", unique("nobody"))

    for title in ("missing agent", "missing version", "delete missing agent", "delete missing version"):
        assert refused(found[title]) == ("ResourceNotFoundError", 404, "not_found"), title
    for title in ("cpu too large", "cpu no number", "memory too small", "empty image", "bad name"):
        assert refused(found[title])[:2] == ("HttpResponseError", 400), title
    for title in ("reserved variable", "bad variable", "limit out of range"):
        assert refused(found[title])[:2] == ("HttpResponseError", 400), title
    for title in ("invoke missing agent", "missing response", "missing conversation"):
        assert refused(found[title])[:2] == ("NotFoundError", 404), title
    assert "cpu" in found["cpu too large"]["message"].lower()
    assert "FOUNDRY_X" in found["reserved variable"]["message"]


@pytest.fixture(scope="module")
def quickstart(platform: Platform) -> Any:
    """The quickstart agent, deployed as code over plain REST, so that every generation can talk to it."""
    name = unique("quickstart")
    with rest_client(platform) as rest:
        deploy_code(rest, name)
        yield name
        rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


@every_client
def test_an_agent_answers(run_client: RunClient, quickstart: str, generation: str, mode: str) -> None:
    """Plain, streamed, chained, in a conversation, in a session: and all of it can be read back."""
    found = run_client(generation, mode, "invoke", quickstart)

    plain = found["plain"]
    assert plain["id"].startswith("caresp_")
    assert plain["status"] == "completed"
    assert text_of(plain["output"]).startswith("Hello! You said: alpha")
    assert found["kinds"][0] == "response.created"
    assert found["kinds"][-1] == "response.completed"
    assert "".join(found["deltas"]).startswith("Hello! You said: beta")
    assert found["chained"] == "You said: gamma I remember 1 earlier turn; the last time you said: alpha"

    assert found["retrieved"]["id"] == plain["id"]
    assert text_of(found["retrieved"]["output"]) == text_of(plain["output"])
    assert [item["content"][0]["text"] for item in found["input_items"]] == ["alpha"]

    assert found["first"].startswith("Hello! You said: delta")
    assert found["second"] == "You said: epsilon I remember 1 earlier turn; the last time you said: delta"
    assert found["third"] == "You said: zeta I remember 2 earlier turns; the last time you said: epsilon"
    assert [item["role"] for item in found["items"]] == ["user", "assistant"] * 3
    assert len(set(found["conversation_sessions"])) == 1
    assert found["again"]["agent_session_id"] == found["session"]


@every_client
def test_a_stream_is_not_buffered(run_client: RunClient, quickstart: str, generation: str, mode: str) -> None:
    """The pieces of an answer arrive over the time in which the agent says them."""
    found = run_client(generation, mode, "invoke", quickstart)
    assert len(found["deltas"]) > 5
    # 0.03 s between two words, and a wide margin: a buffered stream arrives within a millisecond or two.
    assert found["spread"] > 0.03 * (len(found["deltas"]) - 1) * 0.5


@newest_client
def test_code_is_deployed(run_client: RunClient, mode: str) -> None:
    """A zip becomes an active version; the same zip makes none; active sessions keep an agent from deletion."""
    name = unique("code")
    found = run_client("newest", mode, "zipped", name, str(EXAMPLES / "quickstart" / "agent"))

    assert found["first"]["status"] == "active"
    code = found["first"]["definition"]["code_configuration"]
    assert code["entry_point"] == ["python", "main.py"]
    assert len(code["content_hash"]) == 64
    assert found["same"] == found["first"]["version"] == "1"
    assert found["changed"]["version"] == "2"
    assert found["listed"] == ["2", "1"]
    assert found["answer"].startswith("Hello! You said: hello")
    assert refused(found["active_sessions"])[:2] == ("ResourceExistsError", 409)
    assert found["deleted"] == deleted("agent.deleted", name)


def deploy_code(rest: httpx.Client, name: str) -> None:
    """Deploys the quickstart agent's folder and waits until it is active."""
    created = rest.post(f"/agents/{name}/versions", **code_zip(EXAMPLES / "quickstart" / "agent", "responses"))
    assert created.status_code == 200, created.text
    wait_until_active(rest, name, created.json()["version"])


def deleted(kind: str, name: str, **more: str) -> dict[str, Any]:
    return {"object": kind, "name": name, "deleted": True, **more}


def refused(refusal: dict[str, Any]) -> tuple[str, int, str]:
    return refusal["class"], refusal["status"], refusal["code"]


def text_of(output: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
