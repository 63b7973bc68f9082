"""What a container is told about a call, in the dialects of the adapter generations that it may be built with.

A definition's protocol version says little about the adapter in its image: the guide that most users follow declares
`v1` for any. Each adapter generation reads only its own headers and fields, so what an older version reads is added to
what today's reads. Sources: container-contract.md §3.1, §3.2, §3.7 and §6.1; docs/wire-notes.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cupola.agents import Definition
from cupola.gateway.headers import Header, to_sandbox
from cupola.sandboxes.live import LiveSandbox


def headers_for(
    callers: Iterable[Header], definition: Definition, protocol: str, user: str, call_id: str
) -> list[Header]:
    """The caller's headers that a container may see, and the platform's own."""
    sent = to_sandbox(callers)
    declared = definition.protocol(protocol)
    dialect = declared.version if declared is not None else "2.0.0"
    key = user.encode()
    if dialect == "v1":
        sent += [(b"x-aml-oid", key), (b"x-aml-tid", b"cupola")]
    elif dialect == "1.0.0":
        sent += [(b"x-agent-user-isolation-key", key), (b"x-agent-chat-isolation-key", key)]
    sent += [(b"x-agent-user-id", key), (b"x-agent-foundry-call-id", call_id.encode())]
    return sent


def body_for(asked: Mapping[str, Any], live: LiveSandbox, response_id: str) -> dict[str, Any]:
    """The body of `POST /responses` that a container gets: its session and agent; the oldest adapters read `agent`.

    The definition's tools stay out of it: adapters of today refuse a body with tools that they cannot run, and the
    guide that most users follow declares `v1` and tools for any image.
    """
    reference = {"type": "agent_reference", "name": live.row.agent, "version": live.row.version}
    body = {key: value for key, value in asked.items() if key not in ("agent", "agent_reference")}
    body["agent_session_id"] = live.row.session_id
    body["agent_reference"] = reference
    declared = live.version.definition.protocol("responses")
    if declared is not None and declared.version == "v1":
        body["agent"] = reference
    return body
