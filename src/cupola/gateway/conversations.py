"""Conversations and their items, in OpenAI's shapes, under both base layouts (control-plane.md §2.9)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.conversations import Conversation, for_client, metadata_fault, stored_item
from cupola.errors import BadRequest, NotFound
from cupola.gateway.asking import ITEM_REFERENCE
from cupola.ids import new_conversation_id
from cupola.store import Store
from cupola.store import conversations as rows
from cupola.web.body import read_object
from cupola.web.paging import page_from
from cupola.web.reply import json_reply

MAX_ITEMS = 20
"""Items that one call may add (OpenAI's limit)."""


class Conversations:
    """Handlers. A conversation belongs to the caller who made it; to others it does not exist."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def create(self, request: Request) -> Response:
        body = await read_object(request)
        conversation = Conversation(
            project=request.path_params["project"],
            id=new_conversation_id(),
            user=request.scope["cupola.caller"].user,
            created_at=self._clock(),
            metadata=_metadata(body),
        )
        items = _items(body, conversation.id)

        def change(conn: Any) -> None:
            rows.put_conversation(conn, conversation)
            rows.add_items(conn, conversation.project, conversation.id, conversation.user, items)

        await self._store.write(change)
        return json_reply(_show(conversation))

    async def get(self, request: Request) -> Response:
        return json_reply(_show(await self._load(request)))

    async def update(self, request: Request) -> Response:
        conversation = await self._load(request)
        body = await read_object(request)
        updated = replace(conversation, metadata=_metadata(body)) if "metadata" in body else conversation
        await self._store.write(lambda conn: rows.put_conversation(conn, updated))
        return json_reply(_show(updated))

    async def delete(self, request: Request) -> Response:
        conversation = await self._load(request)
        await self._store.write(lambda conn: rows.delete_conversation(conn, conversation.project, conversation.id))
        return json_reply({"id": conversation.id, "object": "conversation.deleted", "deleted": True})

    async def list_items(self, request: Request) -> Response:
        conversation = await self._load(request)
        page = page_from(request.query_params)
        found = await self._store.read(lambda conn: rows.list_items(conn, conversation.project, conversation.id, page))
        return json_reply(_show_items(found.items, found.has_more))

    async def add_items(self, request: Request) -> Response:
        conversation = await self._load(request)
        items = _items(await read_object(request), conversation.id)
        if not items:
            raise BadRequest("'items' must be a list of at least one item.", param="items")
        await self._store.write(
            lambda conn: rows.add_items(conn, conversation.project, conversation.id, conversation.user, items)
        )
        return json_reply(_show_items(items, False))

    async def get_item(self, request: Request) -> Response:
        conversation = await self._load(request)
        item_id = request.path_params["item"]
        item = await self._store.read(lambda conn: rows.get_item(conn, conversation.project, conversation.id, item_id))
        if item is None:
            raise _no_item(conversation, item_id)
        return json_reply(for_client(item))

    async def delete_item(self, request: Request) -> Response:
        conversation = await self._load(request)
        item_id = request.path_params["item"]
        gone = await self._store.write(
            lambda conn: rows.delete_item(conn, conversation.project, conversation.id, item_id)
        )
        if not gone:
            raise _no_item(conversation, item_id)
        return json_reply(_show(conversation))

    async def _load(self, request: Request) -> Conversation:
        project, wanted = request.path_params["project"], request.path_params["conversation"]
        found = await self._store.read(lambda conn: rows.get_conversation(conn, project, wanted))
        if found is None or found.user != request.scope["cupola.caller"].user:
            raise NotFound(f"Conversation '{wanted[:80]}' does not exist.", param="conversation_id")
        return found


def _no_item(conversation: Conversation, item_id: str) -> NotFound:
    return NotFound(f"Conversation '{conversation.id}' has no item '{item_id[:80]}'.", param="item_id")


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    fault = metadata_fault(metadata)
    if fault is not None:
        raise BadRequest(fault, param="metadata")
    found: dict[str, str] = metadata
    return found


def _items(body: Mapping[str, Any], near: str) -> list[dict[str, Any]]:
    items = body.get("items")
    if items is None:
        return []
    if not isinstance(items, list) or len(items) > MAX_ITEMS or not all(isinstance(item, dict) for item in items):
        raise BadRequest(f"'items' must be a list of at most {MAX_ITEMS} objects.", param="items")
    for index, item in enumerate(items):
        if item.get("type") == ITEM_REFERENCE:
            raise BadRequest(
                f"'items[{index}]' only refers to an item; send the item itself.", param=f"items[{index}].type"
            )
    return [stored_item(item, near) for item in items]


def _show(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at),
        "metadata": dict(conversation.metadata),
    }


def _show_items(items: Sequence[Mapping[str, Any]], has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [for_client(item) for item in items],
        "first_id": items[0].get("id") if items else None,
        "last_id": items[-1].get("id") if items else None,
        "has_more": has_more,
    }
