"""Snapshots of sessions' homes, going back to one, and forks: beside the wire, below `/cupola/projects/…`.

A caller has the snapshots of its own sessions, an operator all. A snapshot may outlive its session: it can then still
be listed, forked and deleted, by the session's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import Agent
from cupola.api.owned import agent_of, caller_of, require_enabled, session_of
from cupola.api.sessions import show_session
from cupola.errors import NotFound
from cupola.identity import Role
from cupola.sandboxes.homes import Fork, Homes
from cupola.secrecy import brief
from cupola.sessions import Session, check_session_id
from cupola.snapshots import Snapshot, SnapshotState, check_note
from cupola.store import Store
from cupola.store import snapshots as rows
from cupola.web.body import read_model, read_object
from cupola.web.paging import cursor_list, page_from
from cupola.web.reply import json_reply, no_content


class NewSnapshot(BaseModel):
    """The body of a create; all of it may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    note: str | None = None
    stop: StrictBool = False
    force: StrictBool = False


class Restore(BaseModel):
    """To which snapshot a session goes back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snapshot: str
    force: StrictBool = False


class NewFork(BaseModel):
    """Where a new session begins, and whose it is: the source's owner's, or the caller's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snapshot: str | None = None
    agent_session_id: str | None = None
    owner: Literal["same", "me"] = "same"


class Snapshots:
    """Handlers of `…/sessions/{session}/snapshots…`, `:restore` and `:fork`. `clock` gives unix seconds."""

    def __init__(self, store: Store, homes: Homes, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._homes = homes
        self._clock = clock

    async def create(self, request: Request) -> Response:
        """`POST snapshots`: 201 when the copy is whole."""
        session = await session_of(request, await agent_of(request, self._store), self._store)
        wanted = read_model(NewSnapshot, await read_object(request))
        check_note(wanted.note)
        made = await self._homes.snapshot(session, note=wanted.note, stop=wanted.stop, force=wanted.force)
        return json_reply(show_snapshot(made), 201)

    async def list(self, request: Request) -> Response:
        agent, session_id = await agent_of(request, self._store), request.path_params["session"]
        page, mine = page_from(request.query_params), _only_of(request)
        found = await self._store.read(
            lambda conn: rows.list_snapshots(conn, agent.project, agent.name, session_id, page, mine)
        )
        if not found.items and page.after is None and page.before is None:
            await session_of(request, agent, self._store)  # an empty list is one of a session that there is
        return json_reply(cursor_list(found, show_snapshot, lambda snapshot: snapshot.id))

    async def delete(self, request: Request) -> Response:
        agent = await agent_of(request, self._store)
        await self._homes.delete_snapshot(await self._snapshot(request, agent, request.path_params["snapshot"]))
        return no_content()

    async def restore(self, request: Request) -> Response:
        """`POST {session}:restore`: the session, at rest, with a copy of the snapshot for its home."""
        agent = await agent_of(request, self._store)
        session = await session_of(request, agent, self._store)
        wanted = read_model(Restore, await read_object(request))
        snapshot = await self._snapshot(request, agent, wanted.snapshot)
        restored = await self._homes.restore(session, snapshot, force=wanted.force)
        return json_reply(show_session(restored, self._clock()))

    async def fork(self, request: Request) -> Response:
        """`POST {session}:fork`: 201 with the new session, at rest."""
        agent = await agent_of(request, self._store)
        wanted = read_model(NewFork, await read_object(request))
        require_enabled(agent)
        if wanted.agent_session_id is not None:
            check_session_id(wanted.agent_session_id)
        source, version = await self._source(request, agent, wanted.snapshot)
        owner = caller_of(request).user if wanted.owner == "me" else source.caller
        made = await self._homes.fork(source, Fork(version, owner, wanted.agent_session_id))
        return json_reply(show_session(made, self._clock()), 201)

    async def _source(self, request: Request, agent: Agent, snapshot_id: str | None) -> tuple[Session | Snapshot, str]:
        """What is copied, and the version of the fork: the session's own, where there still is a session."""
        if snapshot_id is None:
            session = await session_of(request, agent, self._store)
            return session, session.version
        snapshot = await self._snapshot(request, agent, snapshot_id)
        try:
            return snapshot, (await session_of(request, agent, self._store)).version
        except NotFound:
            return snapshot, snapshot.version

    async def _snapshot(self, request: Request, agent: Agent, wanted: str) -> Snapshot:
        session_id, mine = request.path_params["session"], _only_of(request)
        found = await self._store.read(partial(rows.get_snapshot, project=agent.project, id=wanted))
        if (
            found is None
            or found.session_key != (agent.project, agent.name, session_id)
            or found.state is SnapshotState.SPARE
            or mine not in (None, found.caller)
        ):
            raise NotFound(f"Session {brief(session_id)} has no snapshot {brief(wanted)}.", param="snapshot")
        return found


def show_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "object": "cupola.snapshot",
        "id": snapshot.id,
        "agent_session_id": snapshot.session,
        "agent_version": snapshot.version,
        "status": snapshot.state.value,
        "size": snapshot.size,
        "note": snapshot.note,
        "created_at": int(snapshot.created_at),
    }


def _only_of(request: Request) -> str | None:
    """The isolation key whose snapshots the caller may have; None for an operator, who has all."""
    caller = caller_of(request)
    return None if caller.role.covers(Role.OPERATOR) else caller.user
