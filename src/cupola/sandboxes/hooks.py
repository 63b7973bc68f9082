"""The adapters' snapshot hooks, used without a snapshot: a sandbox starts without a session and is given one later.

`before-snapshot` lets it put down what it must not carry into a session; `after-restore` tells it its session and the
variables that are the session's own. A sandbox takes one session and refuses a second. Source: container-contract.md
§1, "Snapshot hooks"; core 2.3 also reads its configuration again and takes a new lease id.
"""

from __future__ import annotations

from typing import Any

import orjson

from cupola.drivers.base import Address
from cupola.errors import CupolaError
from cupola.sandboxes.environment import session_variables
from cupola.sandboxes.exchange import exchange

_BEFORE_SNAPSHOT_SECONDS = 30.0
"""Nobody waits for a sandbox that becomes warm."""
_AFTER_RESTORE_SECONDS = 10.0
"""A request waits; a cold start would take about as long."""
_NO_SUCH_HOOK = frozenset({404, 405, 501})


class HookFailed(CupolaError):
    """A hook did not answer 200. `absent` where the container has no such hook at all."""

    code = "hook_failed"

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


async def before_snapshot(address: Address) -> None:
    """Tells a sandbox that it waits for a session from now on. May be repeated. Raises HookFailed."""
    await _call(address, "/_agent/before-snapshot", {}, _BEFORE_SNAPSHOT_SECONDS)


async def after_restore(address: Address, sandbox_id: str, session_id: str, session_guid: str) -> None:
    """Gives a waiting sandbox its session. Repeating it for the same session is harmless. Raises HookFailed."""
    context = {
        "session_id": session_id,
        "restore_id": sandbox_id,  # a process is given a session once, so this names the one restore that it sees
        "session_env_overrides": session_variables(session_id, session_guid),
    }
    await _call(address, "/_agent/after-restore", {"session_context": context}, _AFTER_RESTORE_SECONDS)


async def _call(address: Address, path: str, body: dict[str, Any], timeout: float) -> None:
    reply = await exchange(address, "POST", path, timeout, orjson.dumps(body))
    if reply is None:
        raise HookFailed(f"The container gave POST {path} no answer within {timeout:g} s.")
    if reply.status != 200:
        said = reply.body[:300].decode("utf-8", "replace").strip()
        raise HookFailed(
            f"The container answered POST {path} with {reply.status}{f': {said}' if said else ''}.",
            absent=reply.status in _NO_SUCH_HOOK,
        )
