"""Tasks made of responses: the pure part of A2A, with what odd agents send."""

from __future__ import annotations

from typing import Any

import pytest

from cupola.gateway.a2a_tasks import EventReader, TaskEvents, last_of, task_of

NOW = 1_700_000_000.5
STREAM = b': hello\n\nevent: a\ndata: {"type":"a"}\n\ndata: {"type":\ndata: "b"}\r\n\r\ndata: nonsense\n\ndata: []\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    """Comments are told as None, data over several lines is one payload, what is no object is left out."""
    reader = EventReader()
    read = [event for at in range(0, len(STREAM), size) for event in reader.feed(STREAM[at : at + size])]
    assert read == [None, {"type": "a"}, {"type": "b"}]


@pytest.mark.parametrize(
    ("fields", "timestamp"),
    [
        ({}, "2023-11-14T22:13:20.500Z"),
        ({"created_at": 1}, "1970-01-01T00:00:01.000Z"),
        ({"created_at": 1, "completed_at": 2}, "1970-01-01T00:00:02.000Z"),
        ({"created_at": "yesterday", "completed_at": 1e300}, "2023-11-14T22:13:20.500Z"),
    ],
)
def test_a_task_is_dated(fields: dict[str, Any], timestamp: str) -> None:
    """With the time of its end, else of its beginning, else now; what is no time counts for nothing."""
    task = task_of({"id": "r", "status": "completed", **fields}, "c", [], NOW)
    assert task["status"] == {"state": "completed", "timestamp": timestamp}


@pytest.mark.parametrize("output", [None, 5, {"type": "message"}, [5, {"type": "reasoning"}, {"type": "message"}]])
def test_odd_outputs_make_no_artifacts(output: object) -> None:
    """Only messages with text do."""
    assert "artifacts" not in task_of({"id": "r", "status": "completed", "output": output}, "c", [], NOW)


def test_messages_are_artifacts_under_their_ids() -> None:
    """Each with all its texts and refusals; one without an id is named after its place."""
    output = [
        {"type": "function_call"},
        {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "a"}, {"refusal": "no"}]},
        {"type": "message", "content": "b"},
    ]
    task = task_of({"id": "r", "status": "completed", "output": output}, "c", [], NOW)
    assert [(made["artifactId"], [part["text"] for part in made["parts"]]) for made in task["artifacts"]] == [
        ("msg_1", ["a", "no"]),
        ("r-2", ["b"]),
    ]


@pytest.mark.parametrize(("length", "kept"), [(None, "abc"), (0, ""), (1, "c"), (2, "bc"), (3, "abc"), (9, "abc")])
def test_the_last_of_a_history(length: int | None, kept: str) -> None:
    """As many as asked for, all without a number."""
    history = [{"messageId": letter} for letter in "abc"]
    assert "".join(entry["messageId"] for entry in last_of(history, length)) == kept


def test_each_output_item_is_an_artifact_of_its_own() -> None:
    """Closed when its item is done; the end repeats nothing, and nothing comes after it."""
    events = TaskEvents("c", [])
    output = [
        {"type": "message", "id": letter, "content": [{"type": "output_text", "text": letter}]} for letter in "xyz"
    ]
    told = [
        event
        for payload in (
            {"type": "response.output_text.delta", "delta": "early"},
            {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
            {"type": "response.output_text.delta", "delta": "x", "output_index": 0, "item_id": "x"},
            {"type": "response.output_item.done", "output_index": 0},
            {"type": "response.refusal.delta", "delta": "y", "output_index": 1, "item_id": "y"},
            {"type": "response.reasoning.delta", "delta": "secret"},
            {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": output}},
            {"type": "response.output_text.delta", "delta": "late"},
        )
        for event in events.of(payload, NOW)
    ]
    assert [event["kind"] for event in told] == ["task", *["artifact-update"] * 5, "status-update"]
    assert [
        (event["artifact"]["artifactId"], event["artifact"]["parts"][0]["text"], event["append"], event["lastChunk"])
        for event in told[1:-1]
    ] == [
        ("x", "x", False, False),
        ("x", "", True, True),
        ("y", "y", False, False),
        ("y", "", True, True),
        ("z", "z", False, True),
    ]


def test_a_stream_that_is_only_its_end() -> None:
    """The task is told as working first, so that every client knows it."""
    events = list(TaskEvents("c", []).of({"type": "response.failed", "response": {"id": "r", "status": "failed"}}, NOW))
    assert [(event["kind"], event["status"]["state"]) for event in events] == [
        ("task", "working"),
        ("status-update", "failed"),
    ]
