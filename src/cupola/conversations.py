"""Conversations, their items, and stored responses: the talk as the platform keeps it.

A conversation's history is the items put into it directly and those of its responses, in the order in which they
came. A response's history is what it was given (`history_item_ids`), its input and its output.
Source: container-contract.md §4.1, control-plane.md §2.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cupola.ids import new_item_id

FINAL_STATUSES = frozenset({"completed", "failed", "incomplete", "cancelled"})
FRAMEWORK_KEYS = ("internal_metadata",)
"""Keys that the framework keeps on a stored response: round-tripped, hidden from clients (§4.1)."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`user` is the isolation key of its owner. `created_at` is unix seconds."""

    project: str
    id: str
    user: str
    created_at: float
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response of the Responses protocol as last written. `body` is the wire object, framework keys included.

    `session` is the session that ran it; `background` tells whether it outlives its caller.
    """

    project: str
    id: str
    user: str
    agent: str
    session: str | None
    body: Mapping[str, Any]
    created_at: float
    conversation: str | None = None
    input_item_ids: tuple[str, ...] = ()
    history_item_ids: tuple[str, ...] = ()
    output_item_ids: tuple[str, ...] = ()
    background: bool = False

    @property
    def status(self) -> str:
        return str(self.body.get("status", "in_progress"))

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def context_item_ids(self) -> tuple[str, ...]:
        """What a response that continues this one starts from, oldest first."""
        return (*self.history_item_ids, *self.input_item_ids, *self.output_item_ids)


def failed_body(body: Mapping[str, Any], reason: str, now: float) -> dict[str, Any]:
    """The body of a response whose sandbox died under it."""
    return {
        **body,
        "status": "failed",
        "completed_at": int(now),
        "error": {"code": "server_error", "message": reason},
    }


def for_client(body: Mapping[str, Any]) -> dict[str, Any]:
    """A stored body without the framework's own keys."""
    shown = {key: value for key, value in body.items() if key not in FRAMEWORK_KEYS}
    metadata = shown.get("metadata")
    if isinstance(metadata, dict) and "_internal_metadata" in metadata:
        shown["metadata"] = {k: v for k, v in metadata.items() if k != "_internal_metadata"}
    return shown


def stored_item(entry: Mapping[str, Any], near: str) -> dict[str, Any]:
    """An item as it is kept and shown: with id, type and status, its text as content parts."""
    item = {"type": "message", "status": "completed", **entry}
    if not isinstance(entry.get("id"), str) or not entry["id"]:
        item["id"] = new_item_id("msg" if item["type"] == "message" else "itm", near)
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return item
