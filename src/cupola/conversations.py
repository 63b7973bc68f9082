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
CONTAINER_ID = "_container_response_id"
"""Key of a stored body: the id under which the container knows its response, where that is not the platform's."""

FRAMEWORK_KEYS = ("internal_metadata", CONTAINER_ID)
"""Keys that the framework, or this platform, keeps on stored responses and items: hidden from clients (§4.1)."""

MAX_METADATA_KEYS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
"""Limits of `metadata`, in keys and characters (container-contract.md §3.2)."""


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
    """The body of a response that nobody will finish."""
    return {
        **body,
        "status": "failed",
        "completed_at": int(now),
        "error": {"code": "server_error", "message": reason},
    }


def cancelled_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a foreground response whose caller left, as the adapters write it: without output."""
    return {**body, "status": "cancelled", "output": []}


def for_client(body: Mapping[str, Any]) -> dict[str, Any]:
    """A stored body or item without the framework's own keys, wherever they stand in it."""
    shown = {
        key: _nested(value) if type(value) in _NESTED else value
        for key, value in body.items()
        if key not in FRAMEWORK_KEYS
    }
    metadata = shown.get("metadata")
    if isinstance(metadata, dict) and "_internal_metadata" in metadata:
        shown["metadata"] = {k: v for k, v in metadata.items() if k != "_internal_metadata"}
    return shown


_NESTED = frozenset({dict, list})
"""What JSON is made of: asking for abstract types would take longer than all the rest."""


def _nested(value: Any) -> Any:
    if isinstance(value, dict):
        return for_client(value)
    return [_nested(entry) if type(entry) in _NESTED else entry for entry in value]


def metadata_fault(metadata: object) -> str | None:
    """What is wrong with a `metadata` that a caller sent, as a sentence; None if nothing is."""
    if not isinstance(metadata, Mapping):
        return "'metadata' must be an object of strings."
    if len(metadata) > MAX_METADATA_KEYS:
        return f"'metadata' has {len(metadata)} keys; it may have {MAX_METADATA_KEYS}."
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY:
            return f"A key of 'metadata' has {len(key)} characters ('{key[:20]}…'); it may have {MAX_METADATA_KEY}."
        if not isinstance(value, str):
            return f"'metadata.{key}' must be a string."
        if len(value) > MAX_METADATA_VALUE:
            return f"'metadata.{key}' has {len(value)} characters; it may have {MAX_METADATA_VALUE}."
    return None


_ITEM_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "file_search_call": "fs",
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "custom_tool_call": "ctc",
    "computer_call": "cu",
    "local_shell_call": "lsh",
    "apply_patch_call": "ap",
    "compaction": "cmp",
}
"""Prefixes of item ids by type, as the adapters have them."""


def stored_item(entry: Mapping[str, Any], near: str) -> dict[str, Any]:
    """An item as it is kept and shown: with id, type and status, its text as content parts."""
    item = {"type": "message", "status": "completed", **entry}
    if not isinstance(entry.get("id"), str) or not entry["id"]:
        item["id"] = new_item_id(_ITEM_PREFIXES.get(str(item["type"]), "itm"), near)
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return item
