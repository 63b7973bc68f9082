"""Questions about invocations: which session serves one, and whose it is.

The agent's container keeps what became of an invocation; here stands only where to ask.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, select

from cupola.sessions import Invocation
from cupola.store.statements import insert_new
from cupola.store.tables import invocations

_GET = select(invocations).where(
    invocations.c.project == bindparam("p_project"),
    invocations.c.agent == bindparam("p_agent"),
    invocations.c.id == bindparam("p_id"),
)
_DELETE_OLD = delete(invocations).where(invocations.c.created_at < bindparam("p_before"))


def get_invocation(conn: Connection, project: str, agent: str, id: str) -> Invocation | None:
    row = conn.execute(_GET, {"p_project": project, "p_agent": agent, "p_id": id}).first()
    if row is None:
        return None
    return Invocation(row.project, row.agent, row.id, row.session, row.user, row.created_at)


def put_invocation(conn: Connection, invocation: Invocation) -> None:
    """Keeps an invocation; its id is never given twice."""
    row = {
        "project": invocation.project,
        "agent": invocation.agent,
        "id": invocation.id,
        "session": invocation.session,
        "user": invocation.user,
        "created_at": invocation.created_at,
    }
    insert_new(conn, invocations, [row])


def delete_invocations(conn: Connection, before: float) -> int:
    """Forgets what was made before that time, and returns how many these were."""
    return conn.execute(_DELETE_OLD, {"p_before": before}).rowcount
