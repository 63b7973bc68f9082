"""Questions about conversations and the items in them.

An item leaves its conversation, but not the store, when it or the conversation is deleted: later responses name it in
their history, and would otherwise lose half of what they were told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, select

from cupola.conversations import Conversation
from cupola.store.items import item_ids, put_items
from cupola.store.paging import Page, PageOf, fetch_page
from cupola.store.statements import insert_new, upsert
from cupola.store.tables import conversation_items, conversations, items

_THIS = and_(conversations.c.project == bindparam("p_project"), conversations.c.id == bindparam("p_id"))
_GET = select(conversations).where(_THIS)
_DELETE = delete(conversations).where(_THIS)
_PLACES = and_(
    conversation_items.c.project == bindparam("p_project"), conversation_items.c.conversation == bindparam("p_id")
)
_THIS_PLACE = and_(_PLACES, conversation_items.c.item == bindparam("p_item"))
_HISTORY = select(conversation_items.c.item).where(_PLACES).order_by(conversation_items.c.seq)
_DELETE_PLACES = delete(conversation_items).where(_PLACES)
_DELETE_PLACE = delete(conversation_items).where(_THIS_PLACE)
_WITH_BODY = select(items.c.body).join_from(
    conversation_items,
    items,
    and_(
        items.c.project == conversation_items.c.project,
        items.c.user == conversation_items.c.user,
        items.c.id == conversation_items.c.item,
    ),
)
_GET_ITEM = _WITH_BODY.where(_THIS_PLACE)


def get_conversation(conn: Connection, project: str, id: str) -> Conversation | None:
    row = conn.execute(_GET, {"p_project": project, "p_id": id}).first()
    return None if row is None else _conversation(row)


def put_conversation(conn: Connection, conversation: Conversation) -> None:
    row = {
        "project": conversation.project,
        "id": conversation.id,
        "user": conversation.user,
        "created_at": conversation.created_at,
        "metadata": dict(conversation.metadata),
    }
    upsert(conn, conversations, row, ("project", "id"))


def delete_conversation(conn: Connection, project: str, id: str) -> bool:
    """Deletes the conversation and empties it; False where there was none."""
    this = {"p_project": project, "p_id": id}
    conn.execute(_DELETE_PLACES, this)
    return conn.execute(_DELETE, this).rowcount > 0


def add_items(
    conn: Connection, project: str, conversation_id: str, user: str, items: Sequence[Mapping[str, Any]]
) -> None:
    """Keeps the items, each under its own id, and appends to the conversation those that are not in it yet."""
    put_items(conn, project, user, items)
    append(conn, project, conversation_id, user, item_ids(items))


def append(conn: Connection, project: str, conversation_id: str, user: str, ids: Sequence[str]) -> None:
    """Gives the ids their places at the end; what has a place keeps it."""
    rows = [{"project": project, "conversation": conversation_id, "user": user, "item": id} for id in ids]
    insert_new(conn, conversation_items, rows)


def history(conn: Connection, project: str, conversation_id: str) -> tuple[str, ...]:
    """The ids of all items, oldest first."""
    return tuple(conn.execute(_HISTORY, {"p_project": project, "p_id": conversation_id}).scalars())


def list_items(conn: Connection, project: str, conversation_id: str, page: Page) -> PageOf[Mapping[str, Any]]:
    question = _WITH_BODY.where(
        conversation_items.c.project == project, conversation_items.c.conversation == conversation_id
    )
    return fetch_page(conn, question, page, seq=conversation_items.c.seq, cursor=conversation_items.c.item, read=_body)


def get_item(conn: Connection, project: str, conversation_id: str, item_id: str) -> Mapping[str, Any] | None:
    row = conn.execute(_GET_ITEM, {"p_project": project, "p_id": conversation_id, "p_item": item_id}).first()
    return None if row is None else _body(row)


def delete_item(conn: Connection, project: str, conversation_id: str, item_id: str) -> bool:
    place = {"p_project": project, "p_id": conversation_id, "p_item": item_id}
    return conn.execute(_DELETE_PLACE, place).rowcount > 0


def _body(row: Row[Any]) -> Mapping[str, Any]:
    body: Mapping[str, Any] = row.body
    return body


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(
        project=row.project,
        id=row.id,
        user=row.user,
        created_at=row.created_at,
        metadata=row._mapping["metadata"],
    )
