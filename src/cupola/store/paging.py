"""Cursor paging over what has a sequence number: the same rules for every list.

A cursor is the id of a thing, as the wire has it. `after` goes on behind it, `before` gives what stands in front of it,
both in the order that was asked for. A cursor that names nothing (any more) gives an empty page, which ends the walk
of clients that look at nothing but the items (control-plane.md §1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select

T = TypeVar("T")
ALL = -1


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted. A `limit` of -1 means all of it."""

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class PageOf(Generic[T]):
    """The part that was wanted, in the order that was asked for; `has_more`: the walk goes on behind it."""

    items: list[T]
    has_more: bool


def fetch_page(
    conn: Connection,
    question: Select[Any],
    page: Page,
    *,
    seq: ColumnElement[int],
    cursor: ColumnElement[str],
    read: Callable[[Row[Any]], T],
) -> PageOf[T]:
    """Answers `question` (without any order of its own) by the page; `cursor` is the column that cursors name."""
    ends = [_position(conn, question, seq, cursor, value) for value in (page.after, page.before)]
    if any(end is None for end, value in zip(ends, (page.after, page.before), strict=True) if value is not None):
        return PageOf([], has_more=False)
    after, before = ends
    ascending = page.order == "asc"
    if after is not None:
        question = question.where(seq > after if ascending else seq < after)
    if before is not None:
        question = question.where(seq < before if ascending else seq > before)
    backwards = before is not None and after is None
    rows = _limited(conn, question.order_by(seq.asc() if ascending is not backwards else seq.desc()), page.limit)
    has_more = page.limit != ALL and len(rows) > page.limit
    kept = list(rows[: page.limit] if has_more else rows)
    if backwards:
        kept.reverse()
    return PageOf([read(row) for row in kept], has_more)


def _limited(conn: Connection, question: Select[Any], limit: int) -> Sequence[Row[Any]]:
    """One row more than the limit tells whether there are more."""
    return conn.execute(question if limit == ALL else question.limit(limit + 1)).all()


def _position(
    conn: Connection, question: Select[Any], seq: ColumnElement[int], cursor: ColumnElement[str], value: str | None
) -> int | None:
    if value is None:
        return None
    found = question.with_only_columns(seq, maintain_column_froms=True).where(cursor == value)
    return conn.execute(found).scalar()
