"""Prefixed ids, and the two shapes that the containers' adapters insist on.

Response ids are `caresp_` + an 18-character partition key (16 hex + `00`) + 32 alphanumerics; the adapters refuse
any other length (container-contract.md §3.2, "Ids"). A chain stays in one partition: a new response takes the key of
the response or conversation it continues. Session ids are 63 lowercase hex characters, as the container runtime
itself would make them (control-plane.md §2.5).
"""

from __future__ import annotations

import os
import re
import secrets
import string
import uuid

_ALPHANUMERIC = string.ascii_letters + string.digits
_KEY_LENGTH = 18
_BODY_LENGTH = 50
_LEGACY_BODY_LENGTH = 48
_LEGACY_KEY_LENGTH = 16
_RESPONSE_ID = re.compile(r"(?:caresp|resp)_[A-Za-z0-9]{48}(?:[A-Za-z0-9]{2})?\Z")


_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)  # no two processes give the same


def _hex_of_16_bytes() -> str:
    """Of the kernel's random bytes, drawn many at a time: every request takes some, and each asking of the kernel lets
    go of the interpreter, which another thread may then keep. Threads may call it: what one takes, none else gets."""
    try:
        return _drawn.pop()
    except IndexError:
        drawn = os.urandom(256 * 16).hex()
        _drawn.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))
        return _hex_of_16_bytes()


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))


def _partition_key(near: str | None) -> str:
    """The key of the id `near`, or a new one."""
    if near is not None:
        body = near.partition("_")[2]
        if len(body) == _BODY_LENGTH:
            return body[:_KEY_LENGTH]
        if len(body) == _LEGACY_BODY_LENGTH:
            return body[-_LEGACY_KEY_LENGTH:] + "00"
    return secrets.token_hex(8) + "00"


def _partitioned(prefix: str, near: str | None) -> str:
    return f"{prefix}_{_partition_key(near)}{_hex_of_16_bytes()}"


def new_response_id(near: str | None = None) -> str:
    """A response id in the partition of `near` (a previous response or conversation)."""
    return _partitioned("caresp", near)


def new_item_id(kind: str, near: str | None = None) -> str:
    """An item id; `kind` is the adapters' prefix (`msg`, `fc`, …)."""
    return _partitioned(kind, near)


def new_conversation_id() -> str:
    return _partitioned("conv", None)


def is_response_id(value: str) -> bool:
    """Whether adapters would accept `value` as a response id."""
    return _RESPONSE_ID.fullmatch(value) is not None


def new_session_id() -> str:
    return secrets.token_hex(32)[:63]


def new_guid_hex() -> str:
    """32 lowercase hex characters (`FOUNDRY_AGENT_SESSION_GUID`)."""
    return uuid.uuid4().hex


def new_guid() -> str:
    return str(uuid.uuid4())


def new_sandbox_id() -> str:
    return "sbx-" + secrets.token_hex(8)


def new_snapshot_id() -> str:
    return "snap-" + secrets.token_hex(8)


def new_request_id() -> str:
    return _hex_of_16_bytes()


def new_invocation_id() -> str:
    return "inv_" + _hex_of_16_bytes()


def new_state_store_id() -> str:
    return "ss_" + secrets.token_hex(12)


def new_state_item_id() -> str:
    return "it_" + secrets.token_hex(12)


def new_etag() -> str:
    """Quoted, as HTTP has it (RFC 9110 §8.8.3)."""
    return f'"{secrets.token_hex(8)}"'
