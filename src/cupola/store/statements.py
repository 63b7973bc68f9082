"""The two statements that SQLite and PostgreSQL share only in meaning: insert or update, insert or leave.

Statements are built once: putting one together costs five times what running it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.sql.dml import Insert


def upsert(conn: Connection, table: Table, row: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Inserts `row`, or updates all but the keys of the row that has these keys. `seq` stays as it was."""
    conn.execute(_upsert(conn.dialect.name, table, keys), row)


def insert_new(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows in order, leaving alone what is there already."""
    if rows:
        conn.execute(_insert_new(conn.dialect.name, table), rows)


def upsert_all(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> None:
    if rows:
        conn.execute(_upsert(conn.dialect.name, table, keys), rows)


@cache
def _upsert(dialect: str, table: Table, keys: tuple[str, ...]) -> Insert:
    statement: Any = _insert(dialect, table)
    changed = {c.name: statement.excluded[c.name] for c in table.c if c.name not in keys and c.name != "seq"}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)  # type: ignore[no-any-return]  # see _insert


@cache
def _insert_new(dialect: str, table: Table) -> Insert:
    return _insert(dialect, table).on_conflict_do_nothing()  # type: ignore[no-any-return]  # see _insert


def _insert(dialect: str, table: Table) -> Any:
    """Each database has an `insert` of its own; both understand the same two clauses."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table).inline()
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table).inline()
