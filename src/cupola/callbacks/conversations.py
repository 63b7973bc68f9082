"""Items of conversations, as containers read and write them through the OpenAI client.

The oldest adapters do so themselves, to learn what was said before (container-contract.md §3.7); newer containers may
in their own code. No call id comes with these calls: the user is the one whose session the sandbox serves, and
another user's conversation does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.conversations import Conversation, stored_item
from cupola.errors import BadRequest, NotFound
from cupola.identity import SandboxIdentity
from cupola.secrecy import brief
from cupola.store import Store
from cupola.store import conversations as rows
from cupola.store import sessions as session_rows
from cupola.web.body import read_object
from cupola.web.paging import page_from
from cupola.web.reply import json_reply

MAX_ITEMS = 20
"""Items that one call may add (OpenAI's limit)."""


class ConversationItems:
    """Handlers of `…/openai[/v1]/conversations/{id}/items` on the containers' listener."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, request: Request) -> Response:
        conversation = await self._load(request)
        page = page_from(request.query_params)
        found = await self._store.read(lambda conn: rows.list_items(conn, conversation.project, conversation.id, page))
        return json_reply(_show(found.items, found.has_more))

    async def create(self, request: Request) -> Response:
        conversation = await self._load(request)
        items = [stored_item(entry, conversation.id) for entry in _items(await read_object(request))]
        await self._store.write(
            lambda conn: rows.add_items(conn, conversation.project, conversation.id, conversation.user, items)
        )
        return json_reply(_show(items, False))

    async def _load(self, request: Request) -> Conversation:
        identity: SandboxIdentity = request.scope["cupola.sandbox"]
        wanted = request.path_params["conversation"]

        def question(conn: Any) -> Conversation | None:
            session = session_rows.get_session(conn, identity.project, identity.agent, identity.session)
            found = rows.get_conversation(conn, identity.project, wanted)
            owned = session is not None and found is not None and found.user == session.caller
            return found if owned else None

        conversation = await self._store.read(question)
        if conversation is None:
            raise NotFound(
                f"Conversation {brief(wanted)} does not exist for the user whose session '{identity.session}' is.",
                param="conversation_id",
            )
        return conversation


def _items(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = body.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS or not all(isinstance(i, dict) for i in items):
        raise BadRequest(f"'items' must be a list of 1 to {MAX_ITEMS} objects.", param="items")
    return items


def _show(items: Any, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
