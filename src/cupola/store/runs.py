"""Questions about runs: the lives of sandboxes, kept after the sandboxes are gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from cupola.agents import Failure
from cupola.runs import Run, StartType
from cupola.store.statements import insert_new
from cupola.store.tables import agents, runs, sessions

_THIS = runs.c.sandbox == bindparam("p_sandbox")
_READY = update(runs).where(_THIS).values(ready_at=bindparam("p_at"))
_ADOPTED = update(runs).where(_THIS).values(session=bindparam("p_session"))
_FAILED = update(runs).where(_THIS).values(failure=bindparam("p_failure"))
_ENDED = (
    update(runs)
    .where(_THIS, runs.c.ended_at.is_(None))
    .values(ended_at=bindparam("p_at"), end_reason=bindparam("p_reason"))
)
_DELETE = delete(runs).where(_THIS)
_GET = select(runs).where(_THIS)
_OPEN = select(runs).where(runs.c.ended_at.is_(None)).order_by(runs.c.seq)
_ENDED_FIRST = (
    select(runs)
    .where(runs.c.ended_at <= bindparam("p_until"))
    .order_by(runs.c.ended_at, runs.c.seq)
    .limit(bindparam("p_limit"))
)
_OF_NO_AGENT = (
    select(runs)
    .outerjoin(agents, (agents.c.project == runs.c.project) & (agents.c.name == runs.c.agent))
    .where(agents.c.seq.is_(None), runs.c.ended_at.is_not(None))
)


@dataclass(frozen=True, slots=True)
class Which:
    """Which runs of an agent are meant. None means any."""

    project: str
    agent: str
    session: str | None = None
    version: str | None = None
    caller: str | None = None
    """The isolation key of who made the session."""


def put_run(conn: Connection, run: Run) -> None:
    """Writes down that a sandbox has begun; one that is known stays as it is."""
    row = {
        "sandbox": run.sandbox,
        "project": run.project,
        "agent": run.agent,
        "version": run.version,
        "driver": run.driver,
        "session": run.session,
        "start_type": run.start_type.value,
        "began_at": run.began_at,
        "ready_at": run.ready_at,
        "ended_at": run.ended_at,
        "end_reason": run.end_reason,
        "failure": None if run.failure is None else run.failure.to_json(),
    }
    insert_new(conn, runs, [row])


def get_runs(conn: Connection, sandboxes: Collection[str]) -> dict[str, Run]:
    """The runs of these sandboxes, those that there are."""
    found = (conn.execute(_GET, {"p_sandbox": sandbox}).first() for sandbox in sandboxes)
    return {row.sandbox: _run(row) for row in found if row is not None}


def run_ready(conn: Connection, sandbox: str, at: float) -> None:
    conn.execute(_READY, {"p_sandbox": sandbox, "p_at": at})


def run_adopted(conn: Connection, sandbox: str, session: str) -> None:
    conn.execute(_ADOPTED, {"p_sandbox": sandbox, "p_session": session})


def run_failed(conn: Connection, sandbox: str, failure: Failure) -> None:
    conn.execute(_FAILED, {"p_sandbox": sandbox, "p_failure": failure.to_json()})


def run_ended(conn: Connection, sandbox: str, at: float, reason: str) -> None:
    """The first end counts."""
    conn.execute(_ENDED, {"p_sandbox": sandbox, "p_at": at, "p_reason": reason})


def runs_of(conn: Connection, which: Which, *, since: float | None = None) -> list[Run]:
    """Oldest first; with `since`, only those that had not ended by then."""
    question = select(runs).where(runs.c.project == which.project, runs.c.agent == which.agent)
    if which.session is not None:
        question = question.where(runs.c.session == which.session)
    if which.caller is not None:
        mine = select(sessions.c.id).where(
            sessions.c.project == which.project, sessions.c.agent == which.agent, sessions.c.caller == which.caller
        )
        question = question.where(runs.c.session.in_(mine))
    if which.version is not None:
        question = question.where(runs.c.version == which.version)
    if since is not None:
        question = question.where(runs.c.ended_at.is_(None) | (runs.c.ended_at >= since))
    return [_run(row) for row in conn.execute(question.order_by(runs.c.seq))]


def open_runs(conn: Connection) -> list[Run]:
    """Of all projects, those that have not ended."""
    return [_run(row) for row in conn.execute(_OPEN)]


def ended_runs(conn: Connection, until: float, limit: int) -> list[Run]:
    """Of all projects, those that had ended by then: the first ones, the one that ended first in front."""
    return [_run(row) for row in conn.execute(_ENDED_FIRST, {"p_until": until, "p_limit": limit})]


def runs_of_no_agent(conn: Connection) -> list[Run]:
    """Ended ones whose agent was deleted."""
    return [_run(row) for row in conn.execute(_OF_NO_AGENT)]


def delete_runs(conn: Connection, sandboxes: Collection[str]) -> None:
    if sandboxes:
        conn.execute(_DELETE, [{"p_sandbox": sandbox} for sandbox in sandboxes])


def _run(row: Row[Any]) -> Run:
    return Run(
        sandbox=row.sandbox,
        project=row.project,
        agent=row.agent,
        version=row.version,
        driver=row.driver,
        start_type=StartType(row.start_type),
        began_at=row.began_at,
        session=row.session,
        ready_at=row.ready_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        failure=None if row.failure is None else Failure.from_json(row.failure),
    )
