"""A2A tasks made of responses: one task is one response, its artifacts are the messages in the output.

Pure: from a response's JSON, whole or as a stream of events, to the task and the events that A2A has for it
(A2A 0.3 §6.1, §7.2; container-contract.md §3.2 and §3.6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard

import orjson

from cupola.gateway.a2a_wire import artifact, said

_STATES = {
    "queued": "submitted",
    "in_progress": "working",
    "completed": "completed",
    "failed": "failed",
    "incomplete": "failed",
    "cancelled": "canceled",
}
"""States by a response's status. An incomplete answer is no success: the reason stands in the status."""

_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_MAX_EVENT = 32 * 1024 * 1024


def task_of(
    response: Mapping[str, Any], context_id: str, history: Sequence[Mapping[str, Any]], now: float
) -> dict[str, Any]:
    """The task that shows a response; `now` dates one that carries no time itself."""
    task_id = str(response["id"])
    at = next((at for name in ("completed_at", "created_at") if _is_time(at := response.get(name))), now)
    artifacts = [artifact(made, texts) for _, made, texts in _messages(response, task_id)]
    task: dict[str, Any] = {
        "kind": "task",
        "id": task_id,
        "contextId": context_id,
        "status": _status(response, task_id, context_id, at),
    }
    if artifacts:
        task["artifacts"] = artifacts
    if history:
        task["history"] = [{**entry, "taskId": task_id, "contextId": context_id} for entry in history]
    return task


def history_of(items: Sequence[Mapping[str, Any]], length: int | None) -> list[dict[str, Any]]:
    """The caller's messages among the items that a response answers, the last `length` of them."""
    shown = [
        said(str(item["id"]), "user", texts)
        for item in items
        if item.get("role") == "user" and (texts := _texts(item.get("content"), "input_text"))
    ]
    return last_of(shown, length)


def last_of(history: Sequence[Mapping[str, Any]], length: int | None) -> list[dict[str, Any]]:
    """The most recent `length` messages; all without a length."""
    kept = history if length is None else history[len(history) - length :] if 0 < length < len(history) else history
    return [] if length == 0 else [dict(entry) for entry in kept]


def _status(response: Mapping[str, Any], task_id: str, context_id: str, at: float) -> dict[str, Any]:
    status = {"state": _STATES.get(str(response.get("status")), "working"), "timestamp": _time(at)}
    reason = _reason(response)
    if reason is None:
        return status
    return {**status, "message": said(f"{task_id}-status", "agent", [reason], taskId=task_id, contextId=context_id)}


def _reason(response: Mapping[str, Any]) -> str | None:
    """Why a response is no success, in one sentence."""
    error, details = response.get("error"), response.get("incomplete_details")
    if isinstance(error, Mapping) and error.get("message"):
        return str(error["message"])
    if response.get("status") == "incomplete":
        reason = details.get("reason") if isinstance(details, Mapping) else None
        return f"The answer is incomplete: {reason or 'the agent gave no reason'}."
    return None


def _is_time(value: object) -> TypeGuard[float]:
    """True for unix seconds of this age of the world: agents write them."""
    return isinstance(value, int | float) and 0 < value < 1e11


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _messages(response: Mapping[str, Any], task_id: str) -> Iterator[tuple[int, str, list[str]]]:
    """Place, artifact id and texts of the messages in the output."""
    output = response.get("output")
    for index, item in enumerate(output if isinstance(output, list) else ()):
        if isinstance(item, Mapping) and item.get("type") == "message":
            texts = _texts(item.get("content"), "output_text")
            if texts:
                yield index, _artifact_id(item.get("id"), task_id, index), texts


def _artifact_id(item_id: object, task_id: str, index: int) -> str:
    return item_id if isinstance(item_id, str) and item_id else f"{task_id}-{index}"


def _texts(content: object, kind: str) -> list[str]:
    """The texts of a message's content; a refusal is what the agent has to say, too."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    found = [
        part.get("text") if part.get("type") == kind else part.get("refusal")
        for part in parts
        if isinstance(part, Mapping)
    ]
    return [text for text in found if isinstance(text, str) and text]


class EventReader:
    """The JSON payloads in a stream of server-sent events, as their bytes come; comments are passed on as None."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[Mapping[str, Any] | None]:
        data = (self._pending + chunk).replace(b"\r\n", b"\n")
        *blocks, self._pending = data.split(b"\n\n")
        if len(self._pending) > _MAX_EVENT:
            self._pending = b""
        for block in blocks:
            payload = _payload(block)
            if payload is not None or block.startswith(b":"):
                yield payload


def _payload(block: bytes) -> Mapping[str, Any] | None:
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    try:
        payload = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


@dataclass(slots=True)
class _Artifact:
    id: str
    open: bool = True


class TaskEvents:
    """The events of A2A for those of one streamed response: the task, its text as it comes, its end.

    Nothing is held back: each delta is an update of its artifact at once, which an empty last chunk closes.
    """

    def __init__(self, context_id: str, history: Sequence[Mapping[str, Any]]) -> None:
        self._context_id = context_id
        self._history = history
        self._artifacts: dict[int, _Artifact] = {}
        self.task_id: str | None = None
        self.ended = False

    def of(self, payload: Mapping[str, Any], now: float) -> Iterator[dict[str, Any]]:
        """What the caller is told for one event of the response."""
        if self.ended:
            return
        kind, response = payload.get("type"), payload.get("response")
        if self.task_id is None and isinstance(response, Mapping) and response.get("id"):
            self.task_id = str(response["id"])
            begun = {"id": response["id"], "created_at": response.get("created_at"), "status": "in_progress"}
            yield task_of(begun, self._context_id, self._history, now)
        if self.task_id is None:
            return
        if kind in _DELTAS:
            yield self._delta(payload)
        elif kind == "response.output_item.done":
            yield from self._closed(payload.get("output_index"))
        elif kind in _ENDS and isinstance(response, Mapping):
            yield from self._end(response, now)
        elif kind == "error":
            yield from self.broken_off(str(payload.get("message") or "The agent reported an error."), now)

    def broken_off(self, reason: str, now: float) -> Iterator[dict[str, Any]]:
        """The end of a stream that has none of its own."""
        yield from self._end({"status": "failed", "error": {"message": reason}}, now)

    def _delta(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        index = payload.get("output_index")
        index = index if isinstance(index, int) else 0
        known = self._artifacts.get(index)
        made = known or _Artifact(_artifact_id(payload.get("item_id"), str(self.task_id), index))
        self._artifacts[index] = made
        return self._update(made.id, [str(payload.get("delta") or "")], append=known is not None, last=False)

    def _closed(self, index: object) -> Iterator[dict[str, Any]]:
        made = self._artifacts.get(index) if isinstance(index, int) else None
        if made is not None and made.open:
            made.open = False
            yield self._update(made.id, [""], append=True, last=True)

    def _end(self, response: Mapping[str, Any], now: float) -> Iterator[dict[str, Any]]:
        self.ended = True
        task_id = str(self.task_id)
        for index in self._artifacts:
            yield from self._closed(index)
        for index, made, texts in _messages(response, task_id):
            if index not in self._artifacts:  # an agent that sends no deltas
                yield self._update(made, texts, append=False, last=True)
        yield {
            "kind": "status-update",
            "taskId": task_id,
            "contextId": self._context_id,
            "status": _status(response, task_id, self._context_id, now),
            "final": True,
        }

    def _update(self, artifact_id: str, texts: Sequence[str], *, append: bool, last: bool) -> dict[str, Any]:
        return {
            "kind": "artifact-update",
            "taskId": str(self.task_id),
            "contextId": self._context_id,
            "artifact": artifact(artifact_id, texts),
            "append": append,
            "lastChunk": last,
        }
