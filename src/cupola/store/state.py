"""Questions about state stores and their items.

An item whose time is over does not exist for any question, whether or not `delete_expired` has come by. Who changes an
item looks at it and writes it in one change, so that nobody writes in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, exists, func, or_, select

from cupola.state import StateItem, StateItemRef, StateStore
from cupola.store.paging import Page, PageOf, fetch_page
from cupola.store.statements import upsert
from cupola.store.tables import state_items, state_stores

_OF_AGENT = and_(state_stores.c.project == bindparam("p_project"), state_stores.c.agent == bindparam("p_agent"))
_THIS_STORE = and_(_OF_AGENT, state_stores.c.name == bindparam("p_name"))
_GET_STORE = select(state_stores).where(_THIS_STORE)
_DELETE_STORE = delete(state_stores).where(_THIS_STORE)
_DELETE_STORES = delete(state_stores).where(_OF_AGENT)
_SEQ = select(state_stores.c.seq).where(_THIS_STORE)
_ITEMS = and_(state_items.c.store == _SEQ.scalar_subquery(), state_items.c.user == bindparam("p_user"))
_THIS_ITEM = and_(_ITEMS, state_items.c.key == bindparam("p_key"))
_ALIVE = or_(state_items.c.expires_at.is_(None), state_items.c.expires_at > bindparam("p_now"))
_GET_ITEM = select(state_items).where(_THIS_ITEM, _ALIVE)
_DELETE_ITEM = delete(state_items).where(_THIS_ITEM)
_DELETE_DEAD = delete(state_items).where(_THIS_ITEM, state_items.c.expires_at <= bindparam("p_now"))
_SOME_DEAD = (
    select(state_items.c.seq)
    .where(state_items.c.expires_at <= bindparam("p_now"))
    .order_by(state_items.c.expires_at)
    .limit(bindparam("p_limit"))
)
_DELETE_EXPIRED = delete(state_items).where(state_items.c.seq.in_(_SOME_DEAD))


def get_store(conn: Connection, project: str, agent: str, name: str) -> StateStore | None:
    row = conn.execute(_GET_STORE, {"p_project": project, "p_agent": agent, "p_name": name}).first()
    return None if row is None else _store(row)


def put_store(conn: Connection, store: StateStore) -> None:
    """Makes the store, or replaces it where it stands, with its items."""
    row = {
        "project": store.project,
        "agent": store.agent,
        "name": store.name,
        "id": store.id,
        "user_isolation": store.user_isolation,
        "item_ttl_seconds": store.item_ttl_seconds,
        "description": store.description,
        "tags": dict(store.tags or {}),
        "created_at": store.created_at,
        "updated_at": store.updated_at,
    }
    upsert(conn, state_stores, row, ("project", "agent", "name"))


def delete_store(conn: Connection, store: StateStore) -> None:
    """Deletes the store with its items."""
    conn.execute(_DELETE_STORE, _of(store))


def delete_stores(conn: Connection, project: str, agent: str) -> None:
    """Deletes all stores of an agent with their items."""
    conn.execute(_DELETE_STORES, {"p_project": project, "p_agent": agent})


def get_item(conn: Connection, store: StateStore, user: str, key: str, now: float) -> StateItem | None:
    row = conn.execute(_GET_ITEM, {**_of(store), "p_user": user, "p_key": key, "p_now": now}).first()
    return None if row is None else StateItem(**_ref_fields(row), value=row.value)


def put_item(conn: Connection, store: StateStore, user: str, item: StateItem) -> None:
    """Makes the item, or replaces it where it stands in the list; what has expired under its key gives way."""
    conn.execute(_DELETE_DEAD, {**_of(store), "p_user": user, "p_key": item.key, "p_now": item.updated_at})
    row = {
        "store": conn.execute(_SEQ, _of(store)).scalar_one(),
        "user": user,
        "key": item.key,
        "id": item.id,
        "value": dict(item.value),
        "tags": dict(item.tags or {}),
        "etag": item.etag,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
        "expires_at": item.expires_at,
    }
    upsert(conn, state_items, row, ("store", "user", "key"))


def delete_item(conn: Connection, store: StateStore, user: str, key: str) -> None:
    conn.execute(_DELETE_ITEM, {**_of(store), "p_user": user, "p_key": key})


def list_items(
    conn: Connection, store: StateStore, user: str, tags: Mapping[str, str], page: Page, now: float
) -> PageOf[StateItemRef]:
    """The items that have all these tags, without their values; cursors are their ids."""
    columns = [column for column in state_items.c if column is not state_items.c.value]
    question = select(*columns).where(
        state_items.c.store == conn.execute(_SEQ, _of(store)).scalar_one(),
        state_items.c.user == user,
        or_(state_items.c.expires_at.is_(None), state_items.c.expires_at > now),
        *(_tagged(conn, key, value) for key, value in tags.items()),
    )
    return fetch_page(conn, question, page, seq=state_items.c.seq, cursor=state_items.c.id, read=_ref)


def delete_expired(conn: Connection, now: float, limit: int) -> int:
    """Deletes up to `limit` items whose time is over, those first that ended first, and says how many."""
    return conn.execute(_DELETE_EXPIRED, {"p_now": now, "p_limit": limit}).rowcount


def _tagged(conn: Connection, key: str, value: str) -> ColumnElement[bool]:
    """Each database opens a JSON object in its own way; a path would stumble over quotation marks in a key."""
    each = func.json_each_text if conn.dialect.name == "postgresql" else func.json_each
    tag = each(state_items.c.tags).table_valued("key", "value")
    return exists(select(1).select_from(tag).where(tag.c.key == key, tag.c.value == value))


def _of(store: StateStore) -> dict[str, str]:
    return {"p_project": store.project, "p_agent": store.agent, "p_name": store.name}


def _store(row: Row[Any]) -> StateStore:
    return StateStore(
        project=row.project,
        agent=row.agent,
        name=row.name,
        id=row.id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        user_isolation=row.user_isolation,
        item_ttl_seconds=row.item_ttl_seconds,
        description=row.description,
        tags=row.tags or None,
    )


def _ref(row: Row[Any]) -> StateItemRef:
    return StateItemRef(**_ref_fields(row))


def _ref_fields(row: Row[Any]) -> dict[str, Any]:
    return {
        "key": row.key,
        "id": row.id,
        "etag": row.etag,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
        "tags": row.tags or None,
    }
