"""Questions about snapshots, and about homes that are on their way or nobody's: one row for each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, select, update

from cupola.snapshots import Snapshot, SnapshotState
from cupola.store.paging import Page, PageOf, fetch_page
from cupola.store.statements import upsert
from cupola.store.tables import snapshots

_KEYS = ("project", "id")
_SPARE = SnapshotState.SPARE.value
_THIS = and_(snapshots.c.project == bindparam("p_project"), snapshots.c.id == bindparam("p_id"))
_GET = select(snapshots).where(_THIS)
_DELETE = delete(snapshots).where(_THIS)
_UNFINISHED = select(snapshots).where(snapshots.c.state != SnapshotState.READY.value).order_by(snapshots.c.seq)
_OF_AGENT = and_(snapshots.c.project == bindparam("p_project"), snapshots.c.agent == bindparam("p_agent"))
_OF_CALLER = and_(_OF_AGENT, snapshots.c.session == bindparam("p_session"), snapshots.c.caller == bindparam("p_caller"))


def get_snapshot(conn: Connection, project: str, id: str) -> Snapshot | None:
    row = conn.execute(_GET, {"p_project": project, "p_id": id}).first()
    return None if row is None else _snapshot(row)


def put_snapshot(conn: Connection, snapshot: Snapshot) -> None:
    """Makes the row, or replaces it where it stands in the list."""
    row = {
        "project": snapshot.project,
        "agent": snapshot.agent,
        "session": snapshot.session,
        "id": snapshot.id,
        "version": snapshot.version,
        "caller": snapshot.caller,
        "driver": snapshot.driver,
        "home": snapshot.home,
        "note": snapshot.note,
        "size": snapshot.size,
        "created_at": snapshot.created_at,
        "state": snapshot.state.value,
    }
    upsert(conn, snapshots, row, _KEYS)


def delete_snapshot(conn: Connection, project: str, id: str) -> bool:
    return conn.execute(_DELETE, {"p_project": project, "p_id": id}).rowcount > 0


def list_snapshots(
    conn: Connection, project: str, agent: str, session: str, page: Page, caller: str | None = None
) -> PageOf[Snapshot]:
    """The snapshots of a session, those being made too; with `caller`, only this isolation key's."""
    question = select(snapshots).where(
        snapshots.c.project == project,
        snapshots.c.agent == agent,
        snapshots.c.session == session,
        snapshots.c.state != _SPARE,
    )
    if caller is not None:
        question = question.where(snapshots.c.caller == caller)
    return fetch_page(conn, question, page, seq=snapshots.c.seq, cursor=snapshots.c.id, read=_snapshot)


def unfinished_snapshots(conn: Connection) -> list[Snapshot]:
    """Everything but `ready` ones: what a crash has left half made, or not yet removed."""
    return [_snapshot(row) for row in conn.execute(_UNFINISHED)]


def release_of_session(conn: Connection, project: str, agent: str, session: str, caller: str) -> list[Snapshot]:
    """Makes the snapshots of a session that goes nobody's, and returns them. Another caller's are not its own."""
    these = {"p_project": project, "p_agent": agent, "p_session": session, "p_caller": caller}
    return _release(conn, _OF_CALLER, these)


def release_of_agent(conn: Connection, project: str, agent: str) -> list[Snapshot]:
    """Makes every snapshot that an agent still has nobody's, and returns them."""
    return _release(conn, _OF_AGENT, {"p_project": project, "p_agent": agent})


def _release(conn: Connection, which: Any, these: dict[str, str]) -> list[Snapshot]:
    conn.execute(update(snapshots).where(which).values(state=_SPARE), these)
    return [_snapshot(row) for row in conn.execute(select(snapshots).where(which).order_by(snapshots.c.seq), these)]


def _snapshot(row: Row[Any]) -> Snapshot:
    return Snapshot(
        project=row.project,
        agent=row.agent,
        session=row.session,
        id=row.id,
        version=row.version,
        caller=row.caller,
        driver=row.driver,
        home=row.home,
        created_at=row.created_at,
        note=row.note,
        size=row.size,
        state=SnapshotState(row.state),
    )
