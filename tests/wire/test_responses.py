"""The Responses protocol and conversations, by the OpenAI clients of two generations, against two kinds of agents.

One is built on the official adapter and stores its responses itself; the other is a plain HTTP server that stores
nothing, so that everything about it is the platform's doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.served import Platform, rest_client

from .conftest import GENERATIONS, RunClient
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

AGENTS = Path(__file__).parent / "agents"
KINDS = ("adapter", "plain")
CLIENTS = [(generation, mode, kind) for generation in GENERATIONS for mode in ("sync", "async") for kind in KINDS]


@pytest.fixture(scope="module")
def agents(platform: Platform) -> Iterator[dict[str, str]]:
    """Both kinds, deployed as code."""
    names = {kind: f"{kind}-{uuid4().hex[:10]}" for kind in KINDS}
    with rest_client(platform) as rest:
        for kind, name in names.items():
            made = rest.post(f"/agents/{name}/versions", **code_zip(AGENTS / kind, "responses"))
            assert made.status_code == 200, made.text
            wait_until_active(rest, name, made.json()["version"])
        yield names
        for name in names.values():
            rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


Found = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module", params=CLIENTS, ids=["-".join(client) for client in CLIENTS])
def talked(request: pytest.FixtureRequest, run_client: RunClient, agents: dict[str, str]) -> Found:
    """One run of `clients/background.py` by each client with each agent."""
    generation, mode, kind = request.param
    return kind, run_client(generation, mode, "background", agents[kind], "polled")


@pytest.fixture(scope="module", params=CLIENTS, ids=["-".join(client) for client in CLIENTS])
def kept(request: pytest.FixtureRequest, run_client: RunClient, agents: dict[str, str]) -> Found:
    """One run of `clients/keeping.py` by each client with each agent."""
    generation, mode, kind = request.param
    return kind, run_client(generation, mode, "keeping", agents[kind])


@pytest.mark.operation("responses.create", "responses.retrieve")
def test_a_background_response_is_polled(talked: Found) -> None:
    """It is answered at once, ends by itself, and can be continued."""
    _, found = talked
    assert (found["begun"]["status"], found["begun"]["background"]) == ("in_progress", True)
    assert (found["finished"]["status"], found["finished"]["id"]) == ("completed", found["begun"]["id"])
    assert found["text"].split() == ["0", "1", "2"]
    assert found["chained"].startswith("You said: next")


@pytest.mark.operation("responses.cancel")
def test_a_background_response_is_cancelled(talked: Found) -> None:
    """Once or twice; a synchronous or finished one is not, in the adapters' words."""
    _, found = talked
    assert (found["cancelled"], found["again"], found["retrieved_cancelled"]) == ("cancelled",) * 3
    assert refused(found["cancel_sync"]) == ("BadRequestError", 400, "invalid_request_error")
    assert "Cannot cancel a synchronous response." in found["cancel_sync"]["message"]
    assert "Cannot cancel a completed response." in found["cancel_finished"]["message"]


@pytest.mark.operation("responses.delete")
def test_a_running_response_is_not_deleted(talked: Found) -> None:
    """A finished one is."""
    _, found = talked
    assert refused(found["delete_running"])[:2] == ("BadRequestError", 400)
    assert refused(found["deleted"])[:2] == ("NotFoundError", 404)


@pytest.mark.operation("responses.retrieve")
def test_what_was_not_streamed_in_the_background_is_not_replayed(talked: Found) -> None:
    """400 from either kind of agent."""
    _, found = talked
    for title in ("replay_sync", "replay_unstreamed"):
        assert refused(found[title]) == ("BadRequestError", 400, "invalid_request_error"), title
    assert "background=true" in found["replay_sync"]["message"]


@pytest.mark.operation("responses.create", "responses.retrieve")
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_background_stream_is_left_and_taken_up(
    run_client: RunClient, agents: dict[str, str], generation: str, mode: str
) -> None:
    """It goes on meanwhile; the rest begins behind the last event that was seen; all of it can be had again."""
    stream = run_client(generation, mode, "background", agents["adapter"], "streamed")
    assert stream["during"] == "in_progress"
    assert stream["first"] + stream["rest"] == stream["replayed"] == list(range(len(stream["replayed"])))
    assert (stream["kinds"][0], stream["kinds"][-1]) == ("response.created", "response.completed")
    assert (stream["after"], stream["text"].split()) == ("completed", [str(n) for n in range(30)])


@pytest.mark.operation("responses.create", "responses.retrieve", "responses.input_items.list")
def test_a_response_is_kept(kept: Found) -> None:
    """With its fields, its input in pages, and its stream's end."""
    _, found = kept
    for response in (found["kept"], found["retrieved"]):
        assert (response["object"], response["status"]) == ("response", "completed")
        assert (response["tools"], response["tool_choice"], response["parallel_tool_calls"]) == ([], "auto", False)
        assert response["output"][0]["content"][0]["text"].startswith("You said: ")
        assert response["metadata"] == {"k": "v"}
        assert response["agent_session_id"] == found["kept"]["agent_session_id"]
    assert found["first_page"] == [["c", "b"], True]
    assert found["all_pages"] == ["a", "b", "c"]
    assert found["behind"] == ["c"]
    assert (found["stream_statuses"][0], found["stream_statuses"][-1]) == ("in_progress", "completed")
    assert found["streamed_kept"] == "completed"


@pytest.mark.operation("responses.create", "responses.delete")
def test_what_is_not_to_be_kept_is_not(kept: Found) -> None:
    """Neither `store: false`, alone or in a chain, nor what was deleted."""
    _, found = kept
    assert found["chained"] == "completed"
    for gone in ("unkept", "chained_unkept", "deleted", "deleted_input"):
        assert refused(found[gone])[:2] == ("NotFoundError", 404), gone


@pytest.mark.operation("responses.create")
def test_a_handlers_failure_is_a_failed_response(kept: Found) -> None:
    """No HTTP error."""
    kind, found = kept
    expected = ["failed", "server_error"] if kind == "adapter" else ["completed", None]
    assert found["failed"] == expected


@pytest.mark.operation("conversations.create", "conversations.retrieve", "conversations.update", "conversations.delete")
def test_conversations(kept: Found) -> None:
    """Made, changed, bound to one session, deleted; what was answered in them stays."""
    _, found = kept
    assert (found["made"]["object"], found["made"]["metadata"]) == ("conversation", {"a": "1"})
    assert found["updated"] == found["conversation"]["metadata"] == {"b": "2"}
    assert found["turns"][0] == found["made"]["id"]
    assert len(set(found["sessions"])) == 1
    gone = {"id": found["made"]["id"], "object": "conversation.deleted", "deleted": True}
    assert found["deleted_conversation"] == gone
    assert refused(found["gone"])[:2] == refused(found["gone_items"])[:2] == ("NotFoundError", 404)
    assert found["still_there"] == "completed"


@pytest.mark.operation(
    "conversations.items.create",
    "conversations.items.list",
    "conversations.items.retrieve",
    "conversations.items.delete",
)
def test_items(kept: Found) -> None:
    """In the order in which they were said, over pages; one by one; without the turn that was not to be stored."""
    kind, found = kept
    assert found["added"] == ["after"]
    roles = ["user", "user", "assistant", "user", "assistant", "user"]
    assert [role for role, _ in found["items"]] == roles
    texts = [text for _, text in found["items"]]
    assert [texts[0], texts[1], texts[3], texts[5]] == ["before", "one", "two", "after"]
    if kind == "adapter":
        assert found["turns"][1] == "You said: two (after 3 items)"
    assert found["newest"] == [["after"], True]
    assert (found["one"], found["emptied"], found["left"]) == ("before", True, 5)
    assert refused(found["gone_item"])[:2] == ("NotFoundError", 404)


@pytest.mark.operation("responses.create")
def test_what_cannot_be_is_refused(kept: Found) -> None:
    """As a 400 with the adapters' codes, or a 404, from either kind of agent."""
    _, found = kept
    codes = {title: (refusal["status"], refusal["code"]) for title, refusal in found["refused"].items()}
    assert codes == {
        "stream_options": (400, "invalid_mode"),
        "background": (400, "unsupported_parameter"),
        "both": (400, "mutually_exclusive_parameters"),
        "malformed": (400, "invalid_parameters"),
        "unknown": (404, "not_found"),
        "metadata": (400, "invalid_request"),
        "input": (400, "invalid_request"),
    }


def refused(refusal: dict[str, Any]) -> tuple[str, int, str]:
    return refusal["class"], refusal["status"], refusal["code"]
