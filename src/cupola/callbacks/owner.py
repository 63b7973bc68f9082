"""For whom a sandbox calls back.

A session belongs to one user, so its sandbox acts for that one and nobody else. It still has to say for whom it calls,
by the header of the request that it serves: what names somebody else is a mix-up in the container, or a theft.
Call ids carry their session and stay valid for it, also after a restart and in the sandbox's next life.
"""

from __future__ import annotations

import hmac
from dataclasses import replace

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cupola.errors import BadRequest, Forbidden, Unauthenticated
from cupola.identity import SandboxIdentity
from cupola.store import Store
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.web.auth import Tokens

CALL_ID = "x-agent-foundry-call-id"
OLDER_KEY = "x-agent-user-isolation-key"


class SessionNow:
    """Which session a sandbox serves that got its token while it was warm: such a token names none.

    The token follows the sandbox: it acts for nobody while that waits, then for the session that has adopted it, and
    is worth nothing once the sandbox is gone.
    """

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = scope.get("cupola.sandbox")
        if identity is not None and not identity.session:
            scope["cupola.sandbox"] = replace(identity, session=await self._session_of(identity))
        await self._app(scope, receive, send)

    async def _session_of(self, identity: SandboxIdentity) -> str:
        row = await self._store.read(lambda conn: sandbox_rows.get_sandbox(conn, identity.sandbox))
        if row is None:
            raise Unauthenticated("This sandbox does not belong to the platform any more.")
        if row.session is None:
            raise Forbidden(
                f"Sandbox '{identity.sandbox}' is warm: it serves no session yet, so it cannot act for a user.",
                code="session_not_accessible",
            )
        return row.session


def sandbox_of(request: Request) -> SandboxIdentity:
    identity: SandboxIdentity = request.scope["cupola.sandbox"]
    return identity


async def user_of(request: Request, store: Store, tokens: Tokens) -> str:
    """The user of a sandbox's call, named by call id (protocol 2.0.0) or isolation key (1.0.0).

    Raises BadRequest where neither is sent, Forbidden for anybody but the owner of the sandbox's session.
    """
    sandbox = sandbox_of(request)
    named = _named(request, tokens)
    session = await store.read(
        lambda conn: session_rows.get_session(conn, sandbox.project, sandbox.agent, sandbox.session)
    )
    if session is None or not hmac.compare_digest(session.caller.encode(), named.encode()):
        raise Forbidden(
            f"Sandbox '{sandbox.sandbox}' serves session '{sandbox.session}', which is not that of the user for whom "
            "it calls. Hand on the header of the request that you are serving.",
            code="session_not_accessible",
        )
    return named


def user_of_call(request: Request, tokens: Tokens) -> str | None:
    """The user behind the call id; None without one. Raises Forbidden for a call of another agent or session."""
    call_id = request.headers.get(CALL_ID)
    if call_id is None:
        return None
    call, sandbox = tokens.call(call_id), sandbox_of(request)
    if (call.agent, call.session) != (sandbox.agent, sandbox.session):
        raise Forbidden("The call id belongs to another agent or session.", param=CALL_ID)
    return call.user


def _named(request: Request, tokens: Tokens) -> str:
    user = user_of_call(request, tokens) or request.headers.get(OLDER_KEY)
    if user is None:
        raise BadRequest(
            f"This call says for whom it is by neither {CALL_ID} nor {OLDER_KEY}; "
            "hand on the header of the request that you are serving.",
            param=CALL_ID,
        )
    return user
