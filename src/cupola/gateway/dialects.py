"""What a container is told about a call, in the dialect of the adapter generation that it is built with.

The generation is learned from the running container (`sandboxes/generation.py`). The definition's protocol version
counts only where no official adapter answers, since the guide that most users follow declares `v1` for any image.
Each generation reads only its own headers and fields, so what an older one reads is added to what today's reads.
Sources: container-contract.md §3.1, §3.2, §3.7 and §6.1; docs/wire-notes.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cupola.gateway.headers import Header, to_sandbox
from cupola.sandboxes.generation import Generation
from cupola.sandboxes.live import LiveSandbox


def dialect_of(live: LiveSandbox, protocol: str) -> str:
    """The protocol version to speak: the adapter's own, else the one declared."""
    if live.generation is not None:
        return live.generation
    declared = live.version.definition.protocol(protocol)
    return declared.version if declared is not None else Generation.CURRENT


def headers_for(callers: Iterable[Header], live: LiveSandbox, protocol: str, user: str, call_id: str) -> list[Header]:
    """The caller's headers that a container may see, and the platform's own."""
    sent = to_sandbox(callers)
    dialect = dialect_of(live, protocol)
    key = user.encode()
    if dialect == Generation.OLD:
        sent += [(b"x-aml-oid", key), (b"x-aml-tid", b"cupola")]
    elif dialect == Generation.KEYS:
        sent += [(b"x-agent-user-isolation-key", key), (b"x-agent-chat-isolation-key", key)]
    sent += [(b"x-agent-user-id", key), (b"x-agent-foundry-call-id", call_id.encode())]
    return sent


def body_for(asked: Mapping[str, Any], live: LiveSandbox, response_id: str) -> dict[str, Any]:
    """The body of `POST /responses` that a container gets: its session and agent, and what its generation reads.

    The definition's tools go to an adapter that was seen to be of the oldest generation, and to nothing else: those of
    today refuse a body with tools that they cannot run.
    """
    reference = {"type": "agent_reference", "name": live.row.agent, "version": live.row.version}
    body = {key: value for key, value in asked.items() if key not in ("agent", "agent_reference")}
    body["agent_session_id"] = live.row.session_id
    body["agent_reference"] = reference
    if dialect_of(live, "responses") == Generation.OLD:
        body["agent"] = reference
    if live.generation is Generation.OLD:
        _for_the_oldest(body, live, response_id)
    return body


def _for_the_oldest(body: dict[str, Any], live: LiveSandbox, response_id: str) -> None:
    """The response id goes into `metadata`, which must be an object, and the platform alone keeps the talk.

    With `store` in the body the adapter writes each turn into the conversation itself, under ids of its own: beside
    what the gateway records it would stand there twice.
    """
    metadata = body.get("metadata")
    body["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "response_id": response_id}
    body.pop("store", None)
    tools = live.version.definition.tools
    if tools and not body.get("tools"):
        body["tools"] = [dict(tool) for tool in tools]
