"""Questions about sessions, and which session a conversation belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Float, Row, and_, bindparam, case, delete, or_, select, update

from cupola.agents import Failure
from cupola.errors import NotFound
from cupola.sessions import LIFETIME, Desired, Observed, Session, SessionStatus
from cupola.store.paging import ALL, Page, PageOf, fetch_page
from cupola.store.statements import upsert
from cupola.store.tables import session_conversations, sessions

_KEYS = ("project", "agent", "id")
_CONVERSATION_KEYS = ("project", "agent", "conversation")

_OF_AGENT = and_(sessions.c.project == bindparam("p_project"), sessions.c.agent == bindparam("p_agent"))
_THIS = and_(_OF_AGENT, sessions.c.id == bindparam("p_id"))
_GET = select(sessions).where(_THIS)
_LAST = "\x7f"
"""Behind every character that an id may have."""
_BEGINNING = (
    select(sessions)
    .where(_OF_AGENT, sessions.c.id >= bindparam("p_from"), sessions.c.id < bindparam("p_to"))
    .order_by(sessions.c.id)
    .limit(bindparam("p_limit"))
)
_DELETE = delete(sessions).where(_THIS)
_OF_VERSION = select(sessions).where(_OF_AGENT, sessions.c.version == bindparam("p_version")).order_by(sessions.c.seq)
_LIVE = (
    select(sessions)
    .where(
        or_(
            sessions.c.desired.in_([Desired.RUNNING.value, Desired.DELETED.value]),
            sessions.c.observed.in_([Observed.READY.value, Observed.STARTING.value]),
        )
    )
    .order_by(sessions.c.seq)
)
_LONG_UNUSED = (
    select(sessions)
    .where(sessions.c.last_accessed_at <= bindparam("p_until"), sessions.c.desired != Desired.DELETED.value)
    .order_by(sessions.c.last_accessed_at, sessions.c.seq)
    .limit(bindparam("p_limit"))
)
_TOUCH = (
    update(sessions)
    .where(_THIS, sessions.c.last_accessed_at < bindparam("p_accessed"))
    .values(last_accessed_at=bindparam("p_accessed"))
)
_USED = (
    update(sessions)
    .where(_THIS, sessions.c.used_seconds <= bindparam("p_seconds"), sessions.c.used_cpu_seconds <= bindparam("p_cpu"))
    .values(used_seconds=bindparam("p_seconds"), used_cpu_seconds=bindparam("p_cpu"))
)
_MOVED = sessions.c.last_accessed_at + bindparam("p_moved", type_=Float)
_MOVE_ACCESSES = (
    update(sessions)
    .where(sessions.c.last_accessed_at < bindparam("p_now", type_=Float))
    .values(last_accessed_at=case((bindparam("p_now", type_=Float) < _MOVED, bindparam("p_now")), else_=_MOVED))
)
_BOUND = select(session_conversations.c.session).where(
    session_conversations.c.project == bindparam("p_project"),
    session_conversations.c.agent == bindparam("p_agent"),
    session_conversations.c.conversation == bindparam("p_conversation"),
)
_CONVERSATIONS = select(session_conversations.c.conversation).where(
    session_conversations.c.project == bindparam("p_project"),
    session_conversations.c.agent == bindparam("p_agent"),
    session_conversations.c.session == bindparam("p_session"),
)
_UNBIND = delete(session_conversations).where(
    session_conversations.c.project == bindparam("p_project"),
    session_conversations.c.agent == bindparam("p_agent"),
    session_conversations.c.session == bindparam("p_id"),
)


def get_session(conn: Connection, project: str, agent: str, id: str) -> Session | None:
    row = conn.execute(_GET, {"p_project": project, "p_agent": agent, "p_id": id}).first()
    return None if row is None else _session(row)


def current_session(conn: Connection, session: Session) -> Session:
    """The session as it is now. Raises NotFound when it was deleted meanwhile, or is about to be."""
    known = get_session(conn, *session.key)
    if known is None or known.desired is Desired.DELETED:
        raise NotFound(
            f"Session '{session.id}' of agent '{session.agent}' was deleted meanwhile.", param="agent_session_id"
        )
    return known


def sessions_beginning(conn: Connection, project: str, agent: str, beginning: str, limit: int) -> list[Session]:
    """Some of the agent's sessions whose ids begin so."""
    this = {"p_project": project, "p_agent": agent, "p_from": beginning, "p_to": beginning + _LAST, "p_limit": limit}
    return [_session(row) for row in conn.execute(_BEGINNING, this)]


def put_session(conn: Connection, session: Session) -> None:
    """Makes the session, or replaces it where it stands in the list."""
    row = {
        "project": session.project,
        "agent": session.agent,
        "id": session.id,
        "guid": session.guid,
        "version": session.version,
        "caller": session.caller,
        "home": session.home,
        "created_at": session.created_at,
        "last_accessed_at": session.last_accessed_at,
        "stopped_at": session.stopped_at,
        "desired": session.desired.value,
        "observed": session.observed.value,
        "failure": None if session.failure is None else session.failure.to_json(),
        "used_seconds": session.used_seconds,
        "used_cpu_seconds": session.used_cpu_seconds,
    }
    upsert(conn, sessions, row, _KEYS)


def delete_session(conn: Connection, project: str, agent: str, id: str) -> bool:
    """Deletes the session; its conversations may begin another."""
    this = {"p_project": project, "p_agent": agent, "p_id": id}
    conn.execute(_UNBIND, this)
    return conn.execute(_DELETE, this).rowcount > 0


def list_sessions(conn: Connection, project: str, agent: str, page: Page, caller: str | None = None) -> PageOf[Session]:
    """The agent's sessions; with `caller`, only those that this isolation key has made."""
    question = select(sessions).where(sessions.c.project == project, sessions.c.agent == agent)
    if caller is not None:
        question = question.where(sessions.c.caller == caller)
    return fetch_page(conn, question, page, seq=sessions.c.seq, cursor=sessions.c.id, read=_session)


def sessions_of_version(conn: Connection, project: str, agent: str, version: str) -> list[Session]:
    found = conn.execute(_OF_VERSION, {"p_project": project, "p_agent": agent, "p_version": version})
    return [_session(row) for row in found]


def live_sessions(conn: Connection) -> list[Session]:
    """What there is to look after: wanted running, wanted gone, or last seen starting or ready."""
    return [_session(row) for row in conn.execute(_LIVE)]


def touch_sessions(conn: Connection, accessed: Mapping[tuple[str, str, str], float]) -> None:
    """Moves `last_accessed_at` of many sessions forward, never back. Unknown sessions are passed over."""
    rows = [
        {"p_project": project, "p_agent": agent, "p_id": id, "p_accessed": at}
        for (project, agent, id), at in accessed.items()
    ]
    if rows:
        conn.execute(_TOUCH, rows)


def move_accesses(conn: Connection, moved: float, now: float) -> None:
    """The clock was set forward by `moved` seconds to `now`: that time has passed for no session."""
    conn.execute(_MOVE_ACCESSES, {"p_moved": moved, "p_now": now})


def keep_usage(conn: Connection, used: Sequence[Session]) -> None:
    """Moves `used_seconds` and `used_cpu_seconds` forward, never back. Unknown sessions are passed over."""
    rows = [
        {
            "p_project": session.project,
            "p_agent": session.agent,
            "p_id": session.id,
            "p_seconds": session.used_seconds,
            "p_cpu": session.used_cpu_seconds,
        }
        for session in used
    ]
    if rows:
        conn.execute(_USED, rows)


def expired_sessions(conn: Connection, now: float, limit: int = ALL) -> list[Session]:
    """Sessions past their lifetime that nobody has deleted yet, longest unused first; at most `limit`."""
    slack = 1.0  # the column is compared with a difference, the domain compares a sum: let it have the last word
    found = map(_session, conn.execute(_LONG_UNUSED, {"p_until": now - LIFETIME + slack, "p_limit": limit}))
    return [session for session in found if session.status(now) is SessionStatus.EXPIRED]


def session_of_conversation(conn: Connection, project: str, agent: str, conversation: str) -> str | None:
    this = {"p_project": project, "p_agent": agent, "p_conversation": conversation}
    return conn.execute(_BOUND, this).scalar()


def conversations_of_session(conn: Connection, project: str, agent: str, session: str) -> list[str]:
    """The ids of the conversations that are bound to a session."""
    asked = {"p_project": project, "p_agent": agent, "p_session": session}
    return [row.conversation for row in conn.execute(_CONVERSATIONS, asked)]


def bind_conversation(conn: Connection, project: str, agent: str, conversation: str, session_id: str) -> None:
    """From now on the conversation's requests to this agent go to this session."""
    row = {"project": project, "agent": agent, "conversation": conversation, "session": session_id}
    upsert(conn, session_conversations, row, _CONVERSATION_KEYS)


def _session(row: Row[Any]) -> Session:
    return Session(
        project=row.project,
        agent=row.agent,
        id=row.id,
        guid=row.guid,
        version=row.version,
        caller=row.caller,
        home=row.home,
        created_at=row.created_at,
        last_accessed_at=row.last_accessed_at,
        stopped_at=row.stopped_at,
        desired=Desired(row.desired),
        observed=Observed(row.observed),
        failure=None if row.failure is None else Failure.from_json(row.failure),
        used_seconds=row.used_seconds,
        used_cpu_seconds=row.used_cpu_seconds,
    )
