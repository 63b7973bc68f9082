"""Questions about stored responses, and the histories that the next ones start from.

A response is written twice: when it begins, and when it ends. Gateway and container may both write it, in any order;
what is final stays final. The items of a deleted response stay: later responses name them in their history.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, false, select, update

from cupola.conversations import StoredResponse
from cupola.store.conversations import append
from cupola.store.conversations import history as history_of_conversation
from cupola.store.items import get_items, has_id, item_ids, put_items
from cupola.store.tables import responses

__all__ = [
    "create_response",
    "delete_response",
    "get_items",
    "get_response",
    "history_of_conversation",
    "history_of_response",
    "in_progress_responses",
    "put_items",
    "responses_of_session",
    "save_response",
]

_THIS = and_(responses.c.project == bindparam("p_project"), responses.c.id == bindparam("p_id"))
_GET = select(responses).where(_THIS)
_DELETE = delete(responses).where(_THIS)
_SAVE = (
    update(responses)
    .where(_THIS)
    .values(
        {name: bindparam(f"p_{name}", type_=responses.c[name].type) for name in ("body", "final", "output_item_ids")}
    )
)
_OF_SESSION = (
    select(responses)
    .where(
        responses.c.project == bindparam("p_project"),
        responses.c.agent == bindparam("p_agent"),
        responses.c.session == bindparam("p_session"),
        responses.c.seq > bindparam("p_after"),
    )
    .order_by(responses.c.seq)
    .limit(bindparam("p_limit"))
)
_IN_PROGRESS = select(responses).where(responses.c.final == false()).order_by(responses.c.seq)


def responses_of_session(
    conn: Connection, project: str, agent: str, session: str, after: int, limit: int
) -> tuple[list[StoredResponse], int | None]:
    """Some of what a session has answered, oldest first, behind the number `after`; and where to go on, if at all."""
    asked = {"p_project": project, "p_agent": agent, "p_session": session, "p_after": after, "p_limit": limit}
    found = conn.execute(_OF_SESSION, asked).all()
    return [_response(row) for row in found], found[-1].seq if len(found) == limit else None


def get_response(conn: Connection, project: str, id: str) -> StoredResponse | None:
    row = conn.execute(_GET, {"p_project": project, "p_id": id}).first()
    return None if row is None else _response(row)


def create_response(conn: Connection, response: StoredResponse, input_items: Sequence[Mapping[str, Any]]) -> bool:
    """Stores a new response with its input; False, and nothing changed, where the id is taken."""
    if get_response(conn, response.project, response.id) is not None:
        return False
    put_items(conn, response.project, response.user, input_items)
    _insert(conn, response, response.input_item_ids or item_ids(input_items))
    return True


def save_response(conn: Connection, response: StoredResponse) -> None:
    """Stores the body and its output as they are now, unless that would make a final response unfinished.

    Of a response that is known, only these change; one that is not is stored whole.
    """
    stored = get_response(conn, response.project, response.id)
    if stored is None:
        _insert(conn, response, response.input_item_ids)
        return
    if stored.is_final and not response.is_final:
        return
    output = _store_output(conn, stored, response.body)
    changed = {"p_body": dict(response.body), "p_final": response.is_final, "p_output_item_ids": list(output)}
    conn.execute(_SAVE, {"p_project": stored.project, "p_id": stored.id, **changed})
    if response.is_final:
        _append(conn, stored, output)


def delete_response(conn: Connection, project: str, id: str) -> bool:
    return conn.execute(_DELETE, {"p_project": project, "p_id": id}).rowcount > 0


def in_progress_responses(conn: Connection, sessions: Collection[tuple[str, str, str]] | None) -> list[StoredResponse]:
    """Unfinished responses of these sessions `(project, agent, session)`, or of all; oldest first."""
    found = [_response(row) for row in conn.execute(_IN_PROGRESS)]
    if sessions is None:
        return found
    wanted = set(sessions)
    return [r for r in found if r.session is not None and (r.project, r.agent, r.session) in wanted]


def history_of_response(conn: Connection, project: str, id: str) -> tuple[str, ...] | None:
    """What a response that continues this one starts from, oldest first; None where it is unknown."""
    response = get_response(conn, project, id)
    return None if response is None else response.context_item_ids


def _insert(conn: Connection, response: StoredResponse, input_item_ids: Sequence[str]) -> None:
    output = _store_output(conn, response, response.body)
    conn.execute(
        responses.insert().inline(),
        {
            "project": response.project,
            "id": response.id,
            "user": response.user,
            "agent": response.agent,
            "session": response.session,
            "body": dict(response.body),
            "final": response.is_final,
            "created_at": response.created_at,
            "conversation": response.conversation,
            "input_item_ids": list(input_item_ids),
            "history_item_ids": list(response.history_item_ids),
            "output_item_ids": list(output),
            "background": response.background,
        },
    )
    _append(conn, response, input_item_ids)
    if response.is_final:
        _append(conn, response, output)


def _store_output(conn: Connection, owner: StoredResponse, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Keeps the items of the body's output that have an id, and returns these ids."""
    output = [item for item in body.get("output") or () if has_id(item)]
    put_items(conn, owner.project, owner.user, output)
    return item_ids(output)


def _append(conn: Connection, response: StoredResponse, ids: Sequence[str]) -> None:
    if response.conversation is not None:
        append(conn, response.project, response.conversation, response.user, ids)


def _response(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        project=row.project,
        id=row.id,
        user=row.user,
        agent=row.agent,
        session=row.session,
        body=row.body,
        created_at=row.created_at,
        conversation=row.conversation,
        input_item_ids=tuple(row.input_item_ids),
        history_item_ids=tuple(row.history_item_ids),
        output_item_ids=tuple(row.output_item_ids),
        background=row.background,
    )
