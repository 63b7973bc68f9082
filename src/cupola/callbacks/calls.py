"""For whom a sandbox calls back: its own identity comes from its token, the user from the call that it is serving."""

from __future__ import annotations

from starlette.requests import Request

from cupola.errors import Forbidden
from cupola.identity import SandboxIdentity
from cupola.web.auth import Tokens

CALL_ID = "x-agent-foundry-call-id"


def sandbox_of(request: Request) -> SandboxIdentity:
    identity: SandboxIdentity = request.scope["cupola.sandbox"]
    return identity


def user_of_call(request: Request, tokens: Tokens) -> str | None:
    """The user behind the call id (protocol 2.0.0); None without one. Raises Forbidden for another agent's call."""
    call_id = request.headers.get(CALL_ID)
    if call_id is None:
        return None
    call = tokens.call(call_id)
    if call.agent != sandbox_of(request).agent:
        raise Forbidden("The call id belongs to another agent.")
    return call.user
