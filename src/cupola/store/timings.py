"""Questions about how long requests took.

There is a row for every request, so writing many at once is what counts: one statement with many rows takes half of
what as many executions do, and lets go of the interpreter for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, select, tuple_

from cupola.store.tables import timings
from cupola.timings import StartType, Timing

_TOGETHER = 100
"""Rows of one statement."""

_COLUMNS = [timings.c[name] for name in Timing._fields]
_OF_AGENT = and_(timings.c.project == bindparam("p_project"), timings.c.agent == bindparam("p_agent"))
_PLACE = tuple_(timings.c.began_at, timings.c.seq)
_NEXT = (
    select(timings.c.seq, *_COLUMNS)
    .where(_OF_AGENT, tuple_(bindparam("p_began_at"), bindparam("p_seq")) < _PLACE)
    .order_by(timings.c.began_at, timings.c.seq)
    .limit(bindparam("p_limit"))
)
_DELETE_OF_AGENT = delete(timings).where(_OF_AGENT)
_DELETE_OLD = delete(timings).where(
    timings.c.seq.in_(
        select(timings.c.seq)
        .where(timings.c.began_at < bindparam("p_before"))
        .order_by(timings.c.began_at)
        .limit(bindparam("p_limit"))
    )
)
_COUNT = select(func.count()).select_from(timings).where(_OF_AGENT)
_DELETE_OLDEST = delete(timings).where(
    timings.c.seq.in_(
        select(timings.c.seq).where(_OF_AGENT).order_by(timings.c.began_at, timings.c.seq).limit(bindparam("p_limit"))
    )
)

Place = tuple[float, int]
"""Where a walk over timings stands: the time and number of the last one."""


def put_timings(conn: Connection, rows: Sequence[Timing]) -> None:
    """Keeps them, in the order in which they were measured."""
    together = len(rows) - len(rows) % _TOGETHER
    for begin in range(0, together, _TOGETHER):
        values = tuple(value for row in rows[begin : begin + _TOGETHER] for value in row)
        conn.exec_driver_sql(_many(), values)
    if rest := [row._asdict() for row in rows[together:]]:
        conn.execute(timings.insert().inline(), rest)


@cache
def _many() -> str:
    """SQLite's, spelt out: the library would put the statement together anew each time, which takes longer than it."""
    one = f"({', '.join('?' * len(_COLUMNS))})"
    return f"INSERT INTO timings ({', '.join(Timing._fields)}) VALUES {', '.join([one] * _TOGETHER)}"  # noqa: S608 (ours)


def next_timings(
    conn: Connection, project: str, agent: str, after: Place, limit: int
) -> tuple[list[Timing], Place | None]:
    """The next of an agent's timings in the order of time, and where to go on; None behind the last.

    There may be very many: whoever wants them all asks for a few at a time, since reads run on the event loop.
    """
    asked = {"p_project": project, "p_agent": agent, "p_began_at": after[0], "p_seq": after[1], "p_limit": limit}
    found = conn.execute(_NEXT, asked).all()
    place = (found[-1].began_at, found[-1].seq) if len(found) == limit else None
    return [_timing(row[1:]) for row in found], place


def delete_timings_of_agent(conn: Connection, project: str, agent: str) -> None:
    conn.execute(_DELETE_OF_AGENT, {"p_project": project, "p_agent": agent})


def delete_old_timings(conn: Connection, before: float, limit: int) -> int:
    """Forgets some of those that began before that time, and returns how many these were."""
    return conn.execute(_DELETE_OLD, {"p_before": before, "p_limit": limit}).rowcount


def delete_beyond(conn: Connection, project: str, agent: str, keep: int, limit: int) -> int:
    """Forgets some of an agent's oldest timings, as long as there are more than `keep`; how many these were."""
    asked = {"p_project": project, "p_agent": agent}
    too_many = conn.execute(_COUNT, asked).scalar_one() - keep
    if too_many <= 0:
        return 0
    return conn.execute(_DELETE_OLDEST, {**asked, "p_limit": min(too_many, limit)}).rowcount


def _timing(values: Sequence[Any]) -> Timing:
    found = Timing(*values)
    return found._replace(start_type=StartType(found.start_type))
