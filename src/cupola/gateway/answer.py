"""A response object as OpenAI's clients expect it, whatever the container left out.

Adapters send what their handlers emit, plain containers still less; strict clients want every field
(container-contract.md §3.2, §7.11). What a container says is never changed, but for its id and its session: those are
the platform's, also where a container makes up its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cupola.conversations import CONTAINER_ID, StoredResponse, for_client, stored_item

_NEVER_NULL = ("object", "created_at", "model", "output", "parallel_tool_calls", "tool_choice", "tools")
_ECHOED = frozenset(
    {
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "safety_identifier",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
        "user",
    }
)
"""What a response repeats of its request."""

_PLAIN: Mapping[str, Any] = {
    "object": "response",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": False,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "usage": None,
    "user": None,
    "completed_at": None,
}


def defaults(asked: Mapping[str, Any], known: StoredResponse) -> dict[str, Any]:
    """What stands in a response unless its container says otherwise. `asked` is the request's body, if at hand."""
    start = {
        **_PLAIN,
        "id": known.id,
        "created_at": int(known.created_at),
        "model": known.agent,
        "output": [],
        "background": known.background,
        "previous_response_id": None,
        "conversation": None if known.conversation is None else {"id": known.conversation},
        "agent_reference": {"type": "agent_reference", "name": known.agent},
        "store": True,
    }
    for field, value in asked.items():
        if field in _ECHOED and value is not None:
            start[field] = value
    return start


def filled(
    start: Mapping[str, Any], known: StoredResponse, body: Mapping[str, Any], status: str, now: float
) -> dict[str, Any]:
    """The container's `body` over `start` (see `defaults`); `status` is what it means when it says none."""
    made = {**start, **body}
    for field in _NEVER_NULL:
        if made[field] is None:
            made[field] = start[field]
    said = made.get("status")
    if not isinstance(said, str):
        said = made["status"] = status
    if said == "completed" and made["completed_at"] is None:
        made["completed_at"] = int(now)
    if made["id"] != known.id:
        own, made["id"] = made["id"], known.id
        if isinstance(own, str) and own:
            made[CONTAINER_ID] = own
    made["agent_session_id"] = known.session
    if isinstance(made["conversation"], str):
        made["conversation"] = {"id": made["conversation"]}
    made["output"] = _items(made["output"], known.id)
    return made


def shown(found: StoredResponse) -> dict[str, Any]:
    """A stored response for its caller."""
    return for_client(filled(defaults({}, found), found, found.body, found.status, found.created_at))


def container_id(found: StoredResponse) -> str:
    """The id under which the container that ran a response knows it."""
    return str(found.body.get(CONTAINER_ID) or found.id)


def is_bare_error(body: Mapping[str, Any]) -> bool:
    """The oldest adapters answer 200 with a bare error (container-contract.md §3.2, Errors)."""
    return "output" not in body and "code" in body and "message" in body


def failed_with(body: Mapping[str, Any]) -> dict[str, Any]:
    """A bare error as what today's adapters answer in its place: a response that failed, with status 200."""
    return {"status": "failed", "error": {"code": str(body["code"]), "message": str(body["message"])}}


def _items(output: object, near: str) -> list[Any]:
    """Output items with ids: what has none could be neither stored nor continued."""
    if not isinstance(output, list):
        return []
    if all(not isinstance(item, dict) or isinstance(item.get("id"), str) for item in output):
        return output
    return [
        stored_item(item, near) if isinstance(item, dict) and not isinstance(item.get("id"), str) else item
        for item in output
    ]
