"""Stored responses: what continues them, how they fail, what clients see of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cupola.conversations import StoredResponse, cancelled_body, failed_body, for_client, metadata_fault

RESPONSE = StoredResponse(
    "demo", "caresp_1", "user", "a1", "s1", {"id": "caresp_1", "status": "in_progress"}, created_at=1.0
)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("queued", False),
        ("in_progress", False),
        ("completed", True),
        ("failed", True),
        ("incomplete", True),
        ("cancelled", True),
    ],
)
def test_what_is_final(status: str, final: bool) -> None:
    """Four statuses are the last word."""
    assert replace(RESPONSE, body={"status": status}).is_final is final


def test_a_body_without_a_status_is_in_progress() -> None:
    """Silence is no end."""
    assert replace(RESPONSE, body={}).status == "in_progress"


def test_the_next_response_starts_from_history_input_and_output() -> None:
    """Oldest first."""
    response = replace(RESPONSE, history_item_ids=("h",), input_item_ids=("i",), output_item_ids=("o1", "o2"))
    assert response.context_item_ids == ("h", "i", "o1", "o2")


def test_a_failed_body_keeps_what_was_there_and_says_why() -> None:
    """Output so far stays; the reason stands in OpenAI's place for it."""
    body = failed_body({"id": "x", "status": "in_progress", "output": [1]}, "The sandbox ended.", 12.7)
    assert body == {
        "id": "x",
        "status": "failed",
        "output": [1],
        "completed_at": 12,
        "error": {"code": "server_error", "message": "The sandbox ended."},
    }


def test_clients_do_not_see_the_frameworks_keys() -> None:
    """The framework's own keys are hidden, at the top and within `metadata`; the rest passes."""
    body = {"id": "x", "internal_metadata": {"a": 1}, "metadata": {"_internal_metadata": "{}", "mine": "1"}}
    assert for_client(body) == {"id": "x", "metadata": {"mine": "1"}}
    assert body["metadata"] == {"_internal_metadata": "{}", "mine": "1"}


def test_framework_keys_are_hidden_wherever_they_stand() -> None:
    """In the body, in its output items, and in what these hold; what is shown is a copy."""
    content = {"type": "output_text", "text": "x", "internal_metadata": 1}
    item = {"id": "msg_1", "internal_metadata": {"step": 1}, "content": [content, "y", [content]]}
    body = {"output": [item], "metadata": {"a": "1", "_internal_metadata": "{}"}, "_container_response_id": "own"}
    shown = for_client(body)
    clean = {"type": "output_text", "text": "x"}
    assert shown == {"output": [{"id": "msg_1", "content": [clean, "y", [clean]]}], "metadata": {"a": "1"}}
    assert item["internal_metadata"] == {"step": 1}


def test_a_cancelled_response_has_no_output() -> None:
    """As the adapters write it."""
    assert cancelled_body({"id": "r", "status": "in_progress", "output": [1]}) == {
        "id": "r",
        "status": "cancelled",
        "output": [],
    }


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ([], "object"),
        ("x", "object"),
        ({str(n): "" for n in range(17)}, "17 keys"),
        ({"k" * 65: ""}, "65 characters"),
        ({"k": 1}, "metadata.k"),
        ({"k": "v" * 513}, "513 characters"),
    ],
)
def test_faulty_metadata_is_described(metadata: object, word: str) -> None:
    """In a short sentence that says where and how much is allowed."""
    fault = metadata_fault(metadata)
    assert fault is not None
    assert word in fault
    assert len(fault) < 200


def test_metadata_up_to_its_limits_is_fine() -> None:
    """16 keys of 64 characters with 512 each."""
    assert metadata_fault({f"{n:064}": "v" * 512 for n in range(16)}) is None
    assert metadata_fault({}) is None
