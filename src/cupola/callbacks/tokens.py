"""The token endpoint, as App Service's managed identity has it.

Sources: control-plane.md §5.3 route A, container-contract.md §2.3.

Whoever holds the installation's identity header gets a client's token, whoever holds a sandbox's gets that sandbox's.
Plain http, since the credentials ask there before they could know a certificate; it listens where only they are.
"""

from __future__ import annotations

import hmac
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.errors import Unauthenticated
from cupola.identity import SandboxIdentity
from cupola.store import Store
from cupola.store import sandboxes as rows
from cupola.web.auth import Tokens
from cupola.web.reply import json_reply


class ClientTokens:
    """`GET /msi/token` for local clients."""

    def __init__(self, tokens: Tokens, identity_header: str) -> None:
        self._tokens = tokens
        self._identity_header = identity_header

    async def get(self, request: Request) -> Response:
        sent = request.headers.get("x-identity-header", "")
        if not hmac.compare_digest(sent.encode(), self._identity_header.encode()):
            raise Unauthenticated(
                'X-IDENTITY-HEADER is not this installation\'s. Load its variables again: eval "$(cupola env)".'
            )
        return _reply(self._tokens.mint_client(), request)


class SandboxTokens:
    """`GET /msi/token` for sandboxes: the header is derived from the sandbox's id, which must still be there."""

    def __init__(self, tokens: Tokens, store: Store) -> None:
        self._tokens = tokens
        self._store = store

    async def get(self, request: Request) -> Response:
        sandbox_id = self._tokens.sandbox_of_secret(request.headers.get("x-identity-header", ""))
        row = await self._store.read(lambda conn: rows.get_sandbox(conn, sandbox_id))
        if row is None:
            raise Unauthenticated("This sandbox does not belong to the platform any more.")
        identity = SandboxIdentity(row.project, row.agent, row.version, row.session_id, row.id)
        return _reply(self._tokens.mint_sandbox(identity), request)


def _reply(minted: tuple[str, int], request: Request) -> Response:
    token, expires = minted
    body: dict[str, Any] = {
        "access_token": token,
        "expires_on": str(expires),
        "resource": request.query_params.get("resource", "https://ai.azure.com"),
        "token_type": "Bearer",
    }
    return json_reply(body)
