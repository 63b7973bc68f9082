"""What a request for a response asks, read and checked: each fault is a 400 that names its field.

Checked is what the platform reads itself, with the codes of the adapters, so that a caller learns the same from a plain
container as from one built on them (container-contract.md §3.2); everything else is between the caller and the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupola.conversations import metadata_fault, stored_item
from cupola.errors import BadRequest, NotServed

ITEM_REFERENCE = "item_reference"
"""Type of an input item that only names one that is stored."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A create request. `body` goes on to the container."""

    body: dict[str, Any]
    agent: str
    version: str | None
    session_id: str | None
    conversation: str | None
    previous: str | None
    stream: bool
    store: bool
    background: bool


def read_ask(body: dict[str, Any], agent: str | None) -> Ask:
    """Raises BadRequest naming the field, or NotServed for a request to a model."""
    name, version = agent, None
    if name is None:
        name, version = _agent_reference(body)
    body.pop("response_id", None)  # the platform gives the ids; plain containers might believe this one
    ask = Ask(
        body=body,
        agent=name,
        version=version,
        session_id=_text(body, "agent_session_id"),
        conversation=_conversation(body.get("conversation")),
        previous=_text(body, "previous_response_id"),
        stream=_flag(body, "stream", False),
        store=_flag(body, "store", True),
        background=_flag(body, "background", False),
    )
    _text(body, "model")
    _check_together(ask)
    _check_input(body.get("input"))
    _check_metadata(body.get("metadata"))
    return ask


def _check_together(ask: Ask) -> None:
    if ask.conversation is not None and ask.previous is not None:
        raise BadRequest(
            "Send 'conversation' or 'previous_response_id', not both.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )
    if ask.background and not ask.store:
        raise BadRequest(
            "'background' needs 'store': a response that is not stored could not be retrieved.",
            code="unsupported_parameter",
            param="background",
        )
    if ask.body.get("stream_options") is not None and not ask.stream:
        raise BadRequest("'stream_options' needs 'stream': true.", code="invalid_mode", param="stream")


def _check_input(value: object) -> None:
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, list):
        raise BadRequest("'input' must be a string or a list of items.", code="invalid_request", param="input")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise BadRequest(
                f"'input[{index}]' must be an object, such as a message.",
                code="invalid_request",
                param=f"input[{index}]",
            )


def _check_metadata(metadata: object) -> None:
    fault = None if metadata is None else metadata_fault(metadata)
    if fault is not None:
        raise BadRequest(fault, code="invalid_request", param="metadata")


def _agent_reference(body: Mapping[str, Any]) -> tuple[str, str | None]:
    reference = body.get("agent_reference") or body.get("agent")
    if reference is None:
        raise NotServed(
            "This request names no agent ('agent_reference'), so it is for a model; "
            "Cupola does not serve models yet. Send it to your model's own endpoint."
        )
    if not isinstance(reference, dict) or not isinstance(reference.get("name"), str):
        raise BadRequest(
            '\'agent_reference\' must be an object such as {"type": "agent_reference", "name": "my-agent"}.',
            param="agent_reference",
        )
    version = reference.get("version")
    return reference["name"], None if version is None else str(version)


def _conversation(value: object) -> str | None:
    """The id of a conversation, which may stand alone or in an object."""
    if not isinstance(value, dict):
        return _as_text(value, "conversation")
    found = _as_text(value.get("id"), "conversation.id")
    if found is None:
        raise BadRequest("'conversation' must be an id, or an object with one.", param="conversation")
    return found


def _text(body: Mapping[str, Any], field: str) -> str | None:
    return _as_text(body.get(field), field)


def _as_text(value: object, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise BadRequest(f"'{field}' must be a string.", param=field)


def _flag(body: Mapping[str, Any], field: str, default: bool) -> bool:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{field}' must be true or false.", param=field)
    return value


def input_items_of(value: object, near: str) -> Sequence[Mapping[str, Any]]:
    """The `input` of a request as stored items with ids; text is one user message."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return ()
    return [stored_item(entry, near) for entry in value if isinstance(entry, dict)]
