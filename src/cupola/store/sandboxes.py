"""Questions about sandboxes: one row for each that is running or half made.

That a session has at most one is not checked here but guaranteed by the index `one_sandbox_per_session`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError

from cupola.errors import Conflict
from cupola.sessions import Observed, Sandbox
from cupola.store.statements import upsert
from cupola.store.tables import sandboxes

_DELETE = delete(sandboxes).where(sandboxes.c.id == bindparam("p_id"))
_USED = (
    update(sandboxes)
    .where(sandboxes.c.id == bindparam("p_id"), sandboxes.c.used_cpu_seconds <= bindparam("p_used"))
    .values(used_cpu_seconds=bindparam("p_used"))
)
_ALL = select(sandboxes).order_by(sandboxes.c.created_at, sandboxes.c.id)
_THIS = select(sandboxes).where(sandboxes.c.id == bindparam("p_id"))
_OF_SESSION = select(sandboxes).where(
    sandboxes.c.project == bindparam("p_project"),
    sandboxes.c.agent == bindparam("p_agent"),
    sandboxes.c.session == bindparam("p_session"),
)


def put_sandbox(conn: Connection, sandbox: Sandbox) -> None:
    """Makes or replaces the row. Conflict where its session has another sandbox."""
    row = {
        "id": sandbox.id,
        "project": sandbox.project,
        "agent": sandbox.agent,
        "version": sandbox.version,
        "driver": sandbox.driver,
        "session_id": sandbox.session_id,
        "session_guid": sandbox.session_guid,
        "home": sandbox.home,
        "created_at": sandbox.created_at,
        "session": sandbox.session,
        "handle": None if sandbox.handle is None else dict(sandbox.handle),
        "observed": sandbox.observed.value,
        "used_cpu_seconds": sandbox.used_cpu_seconds,
    }
    try:
        upsert(conn, sandboxes, row, ("id",))
    except IntegrityError as error:
        raise Conflict(f"Session {sandbox.session} of agent {sandbox.agent} has a sandbox already.") from error


def keep_usage(conn: Connection, used: Mapping[str, float]) -> None:
    """Moves `used_cpu_seconds` of many sandboxes forward, by id. Unknown ones are passed over."""
    if used:
        conn.execute(_USED, [{"p_id": id, "p_used": seconds} for id, seconds in used.items()])


def delete_sandbox(conn: Connection, id: str) -> bool:
    return conn.execute(_DELETE, {"p_id": id}).rowcount > 0


def all_sandboxes(conn: Connection) -> list[Sandbox]:
    """Of all projects, oldest first."""
    return [_sandbox(row) for row in conn.execute(_ALL)]


def get_sandbox(conn: Connection, id: str) -> Sandbox | None:
    row = conn.execute(_THIS, {"p_id": id}).first()
    return None if row is None else _sandbox(row)


def sandbox_of_session(conn: Connection, project: str, agent: str, session: str) -> Sandbox | None:
    row = conn.execute(_OF_SESSION, {"p_project": project, "p_agent": agent, "p_session": session}).first()
    return None if row is None else _sandbox(row)


def _sandbox(row: Row[Any]) -> Sandbox:
    return Sandbox(
        id=row.id,
        project=row.project,
        agent=row.agent,
        version=row.version,
        driver=row.driver,
        session_id=row.session_id,
        session_guid=row.session_guid,
        home=row.home,
        created_at=row.created_at,
        session=row.session,
        handle=row.handle,
        observed=Observed(row.observed),
        used_cpu_seconds=row.used_cpu_seconds,
    )
