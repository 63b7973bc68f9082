"""Items of talk, wherever they stand: kept per user under the ids that their writers chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from cupola.errors import BadRequest
from cupola.store.statements import upsert_all
from cupola.store.tables import items as table

_AT_ONCE = 500
"""Ids in one question: databases bound the number of parameters."""

_GET = select(table.c.id, table.c.body).where(
    table.c.project == bindparam("p_project"),
    table.c.user == bindparam("p_user"),
    table.c.id.in_(bindparam("p_ids", expanding=True)),
)


def put_items(conn: Connection, project: str, user: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Keeps each item under its own id; the last one written counts. BadRequest where one has no id."""
    ids = item_ids(items)
    rows = [
        {"project": project, "user": user, "id": id, "body": dict(item)} for id, item in zip(ids, items, strict=True)
    ]
    upsert_all(conn, table, rows, ("project", "user", "id"))


def get_items(conn: Connection, project: str, ids: Sequence[str], user: str) -> list[Mapping[str, Any] | None]:
    """One entry for each id, in their order; None for what is unknown or another user's."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = {"p_project": project, "p_user": user, "p_ids": wanted[start : start + _AT_ONCE]}
        found.update((row.id, row.body) for row in conn.execute(_GET, some))
    return [found.get(id) for id in ids]


def item_ids(items: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    for index, item in enumerate(items):
        if not has_id(item):
            raise BadRequest(f"Item {index} has no id; every stored item needs one.", param=f"items[{index}].id")
    return tuple(item["id"] for item in items)


def has_id(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("id"), str) and bool(item["id"])
