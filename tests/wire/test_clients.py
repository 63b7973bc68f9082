"""The official SDK, unmodified, the oldest and the newest, sync and async, through whole stories of a user.

What every generation can do, operation by operation, stands in test_catalogue.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, rest_client

from .conftest import EXAMPLES, GENERATIONS, MODES, RunClient
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

CLIENTS = [(generation, mode) for generation in (GENERATIONS[0], GENERATIONS[-1]) for mode in MODES]

CLIENT_NAMES = ["-".join(client) for client in CLIENTS]

every_client = pytest.mark.parametrize(("generation", "mode"), CLIENTS, ids=CLIENT_NAMES)
newest_client = pytest.mark.parametrize("mode", MODES)


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex[:10]}"


@every_client
def test_signs_in_offline(run_client: RunClient, generation: str, mode: str) -> None:
    """`DefaultAzureCredential()` works with what `cupola env` prints, without waiting for anything in Azure."""
    found = run_client(generation, mode, "sign_in")
    assert found["seconds"] < 10


@dataclass(frozen=True, slots=True)
class Told:
    """The name that a client script worked on, and what it found."""

    name: str
    found: dict[str, Any]


@pytest.fixture(scope="module", params=CLIENTS, ids=CLIENT_NAMES)
def crud(request: pytest.FixtureRequest, run_client: RunClient) -> Told:
    """One run of `clients/crud.py` by each client."""
    name = unique("crud")
    return Told(name, run_client(*request.param, "crud", name))


def test_versions_are_made_and_read(crud: Told) -> None:
    """What a client has created comes back in a shape that the SDK understands."""
    made = crud.found["made"]
    assert [version["version"] for version in made] == ["1", "2", "3", "4", "5"]
    first = made[0]
    assert (first["object"], first["id"], first["name"]) == ("agent.version", f"{crud.name}:1", crud.name)
    assert (first["description"], first["metadata"]) == ("number 1", {"number": "1"})
    assert isinstance(first["created_at"], int)
    assert first["definition"]["kind"] == "hosted"
    assert first["definition"]["environment_variables"] == {"NUMBER": "1"}

    assert (crud.found["agent"]["object"], crud.found["agent"]["name"]) == ("agent", crud.name)
    assert crud.found["agent"]["versions"]["latest"]["version"] == "5"
    assert crud.found["second"]["version"] == "2"


def test_lists_go_over_pages(crud: Told) -> None:
    """The SDK's pager finds every row once, in either order, and ends."""
    assert crud.found["paged"] == ["5", "4", "3", "2", "1"]
    assert crud.found["ascending"] == ["1", "2", "3", "4", "5"]
    assert crud.name in crud.found["agents"]


def test_versions_and_agents_are_deleted(crud: Told) -> None:
    """What is deleted is gone: not listed, and 404 when asked for."""
    assert crud.found["deleted_version"] == deleted("agent.version.deleted", crud.name, version="1")
    assert refused(crud.found["gone_version"]) == ("ResourceNotFoundError", 404, "not_found")
    assert crud.found["left"] == ["5", "4", "3", "2"]
    assert crud.found["deleted"] == deleted("agent.deleted", crud.name)
    assert refused(crud.found["gone"]) == ("ResourceNotFoundError", 404, "not_found")


def test_both_spellings_of_a_definition_come_back(crud: Told) -> None:
    """A definition of either generation is echoed as it was written, and as the other generation reads it."""
    definition = crud.found["second"]["definition"]
    assert definition["image"] == "registry.invalid/agent:1"
    assert definition["container_configuration"]["image"] == "registry.invalid/agent:1"
    assert definition["container_protocol_versions"] == definition["protocol_versions"]
    assert definition["protocol_versions"][0]["protocol"] == "responses"
    assert (definition["cpu"], definition["memory"]) == ("1", "2Gi")


def test_a_version_that_cannot_start_says_why(crud: Told) -> None:
    """An image that nobody can pull ends `failed`, with a code and a sentence in `version["error"]`."""
    failed = crud.found["failed"]
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


@pytest.fixture(scope="module", params=CLIENTS, ids=CLIENT_NAMES)
def talk(request: pytest.FixtureRequest, run_client: RunClient, quickstart: str) -> dict[str, Any]:
    """One run of `clients/invoke.py` by each client."""
    found: dict[str, Any] = run_client(*request.param, "invoke", quickstart)
    return found


def test_an_agent_answers(talk: dict[str, Any]) -> None:
    """A plain answer has an id that chains, a status, and the text."""
    assert talk["plain"]["id"].startswith("caresp_")
    assert talk["plain"]["status"] == "completed"
    assert text_of(talk["plain"]["output"]).startswith("Hello! You said: alpha")


def test_a_stream_comes_word_by_word(talk: dict[str, Any]) -> None:
    """Each word is an event of its own, from the first to the last. (Not held back: tests/e2e/test_streaming.py.)"""
    assert (talk["kinds"][0], talk["kinds"][-1]) == ("response.created", "response.completed")
    assert "".join(talk["deltas"]).startswith("Hello! You said: beta")
    assert len(talk["deltas"]) == len("".join(talk["deltas"]).split())


def test_an_answer_is_read_back(talk: dict[str, Any]) -> None:
    """A finished response and its input can be retrieved."""
    assert talk["retrieved"]["id"] == talk["plain"]["id"]
    assert text_of(talk["retrieved"]["output"]) == text_of(talk["plain"]["output"])
    assert [item["content"][0]["text"] for item in talk["input_items"]] == ["alpha"]


def test_a_chained_turn_remembers(talk: dict[str, Any]) -> None:
    """`previous_response_id` brings the earlier turn along."""
    assert talk["chained"] == "You said: gamma I remember 1 earlier turn; the last time you said: alpha"


def test_a_conversation_remembers(talk: dict[str, Any]) -> None:
    """Every turn of a conversation sees all earlier ones, plain and streamed, in one session."""
    assert talk["first"].startswith("Hello! You said: delta")
    assert talk["second"] == "You said: epsilon I remember 1 earlier turn; the last time you said: delta"
    assert talk["third"] == "You said: zeta I remember 2 earlier turns; the last time you said: epsilon"
    assert [item["role"] for item in talk["items"]] == ["user", "assistant"] * 3
    assert len(set(talk["conversation_sessions"])) == 1


def test_a_session_is_named_by_its_id(talk: dict[str, Any]) -> None:
    """An answer names its session, and a request that names it stays there."""
    assert talk["again"]["agent_session_id"] == talk["session"]


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
