"""Questions about how long requests took.

There is a row for every request, so writing many at once is what counts: one statement with many rows takes half of
what as many executions do, and lets go of the interpreter for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, select, tuple_

from cupola.store.tables import agents, timings
from cupola.timings import SessionStart, Timing

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
_OF_SUBJECT = (
    select(*_COLUMNS)
    .where(timings.c.project == bindparam("p_project"), timings.c.subject == bindparam("p_subject"))
    .order_by(timings.c.seq.desc())
    .limit(1)
)
_DELETE_OF_AGENT = delete(timings).where(_OF_AGENT)
_COUNT = select(func.count()).select_from(timings).where(_OF_AGENT)
_OLDEST = select(timings.c.seq).where(_OF_AGENT).order_by(timings.c.began_at, timings.c.seq).limit(bindparam("p_limit"))
_DELETE_OLDEST = delete(timings).where(timings.c.seq.in_(_OLDEST))
_DELETE_OLD = delete(timings).where(timings.c.seq.in_(_OLDEST.where(timings.c.began_at < bindparam("p_before"))))
_AGENTS = select(agents.c.project, agents.c.name)

_MANY = (
    f"INSERT INTO timings ({', '.join(Timing._fields)}) VALUES "  # noqa: S608 - our own names
    + ", ".join([f"({', '.join('?' * len(_COLUMNS))})"] * _TOGETHER)
)
"""SQLite's, spelt out: the library would put it together anew each time, which takes longer than the inserting."""

Place = tuple[float, int]
"""Where a walk over timings stands: the time and number of the last one."""


def put_timings(conn: Connection, rows: Sequence[Timing]) -> None:
    """Keeps them, in the order in which they were measured."""
    together = len(rows) - len(rows) % _TOGETHER
    for begin in range(0, together, _TOGETHER):
        values = tuple(value for row in rows[begin : begin + _TOGETHER] for value in row)
        conn.exec_driver_sql(_MANY, values)
    if rest := [row._asdict() for row in rows[together:]]:
        conn.execute(timings.insert().inline(), rest)


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


def timing_of_subject(conn: Connection, project: str, subject: str) -> Timing | None:
    """How long the request took that made a response or invocation, if it asked for that."""
    row = conn.execute(_OF_SUBJECT, {"p_project": project, "p_subject": subject}).first()
    return None if row is None else _timing(row)


def delete_timings_of_agent(conn: Connection, project: str, agent: str) -> None:
    conn.execute(_DELETE_OF_AGENT, {"p_project": project, "p_agent": agent})


def agents_that_may_have_timings(conn: Connection) -> list[tuple[str, str]]:
    """Project and name of every agent: timings go with theirs."""
    return [(row.project, row.name) for row in conn.execute(_AGENTS)]


def delete_old_timings(conn: Connection, project: str, agent: str, before: float, limit: int) -> int:
    """Forgets some of an agent's that began before that time, and returns how many these were."""
    asked = {"p_project": project, "p_agent": agent, "p_before": before, "p_limit": limit}
    return conn.execute(_DELETE_OLD, asked).rowcount


def delete_timings_beyond(conn: Connection, project: str, agent: str, keep: int, limit: int) -> int:
    """Forgets some of an agent's oldest, as long as there are more than `keep`; how many these were."""
    asked = {"p_project": project, "p_agent": agent}
    too_many = conn.execute(_COUNT, asked).scalar_one() - keep
    if too_many <= 0:
        return 0
    return conn.execute(_DELETE_OLDEST, {**asked, "p_limit": min(too_many, limit)}).rowcount


def _timing(values: Sequence[Any]) -> Timing:
    found = Timing(*values)
    return found._replace(start_type=SessionStart(found.start_type))
