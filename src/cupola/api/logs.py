"""Logs of sandboxes: the wire's log streams (control-plane.md §2.7) and our own, over all sessions of an agent.

Everything is read from what is kept: what was, over all lives of a session, then what comes. Nobody is woken by a
reader. The wire's streams end after half an hour, or two minutes without a line, as the service's do; ours does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from cupola.agents import Agent
from cupola.api.owned import agent_of, caller_of, session_of
from cupola.durations import seconds_of
from cupola.errors import BadRequest, NotFound
from cupola.identity import Role
from cupola.runs import Part, Stream
from cupola.sandboxes.transcript import Entry, Event, Reading, Transcripts, Wanted
from cupola.secrecy import brief
from cupola.sessions import Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows
from cupola.store.runs import Which
from cupola.web.query import flag
from cupola.web.stream import send_stream

MOST_LINES = 300
"""The largest `tail` of the wire's log streams."""
USUAL_LINES = 50
"""Their `tail` where none is given, but for the SDK's, which knows no such parameter and gets everything."""

_EVENTS = "text/event-stream"
_LINES = "application/x-ndjson"
_PLAIN = "text/plain; charset=utf-8"
_CONNECTED = "Successfully connected to container"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _View:
    """How a stream shows the story: which rows it makes of entries, and bytes of rows; states have no notices."""

    row: Callable[[Entry], Row]
    encode: Callable[[Row], bytes]
    notices: bool = True

    def entries(self, entries: Sequence[Entry]) -> bytes:
        return b"".join(self.encode(self.row(entry)) for entry in entries)

    def notice(self, at: float, text: str) -> bytes:
        return self.encode(_line_row(at, Stream.STATUS, text)) if self.notices else b""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How long streams last, in seconds: in all, without a line, until silence is told, until it is broken (ours)."""

    total: float = 1800
    silence: float = 120
    heartbeat: float = 60
    keep_alive: float = 15


class Logs:
    """Handlers. `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        transcripts: Transcripts,
        limits: LogLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._transcripts = transcripts
        self._limits = limits
        self._clock = clock

    async def of_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET agents/{agent}/sessions/{session}:logstream` (azd)."""
        request = Request(scope, receive)
        agent = await agent_of(request, self._store)
        session = await session_of(request, agent, self._store)
        await self._stream_session(request, send, session, USUAL_LINES)

    async def of_session_of_version(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET agents/{agent}/versions/{version}/sessions/{session}:logstream` (SDK): the version is the session's."""
        request = Request(scope, receive)
        agent = await agent_of(request, self._store)
        session, version = await session_of(request, agent, self._store), request.path_params["version"]
        if session.version != version:
            raise NotFound(
                f"Session '{session.id}' of agent '{agent.name}' runs version '{session.version}', not '{version}'.",
                param="agent_version",
            )
        await self._stream_session(request, send, session, None)

    async def _stream_session(self, request: Request, send: Send, session: Session, usual: int | None) -> None:
        query = request.query_params
        states = _of_states(query)
        which = Which(session.project, session.agent, session.id)
        wanted = Wanted(which, only_events=states, tail=_lines(query, usual))
        view = _View(_state_row(session), _event, notices=False) if states else _View(_entry_row, _event)
        follow = flag(query, "follow") if query.get("follow") else True
        await send_stream(request.receive, send, _EVENTS, self._limited(wanted, view, follow))

    async def of_version(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET agents/{agent}/versions/{version}/containers/default:logstream`, retired: plain text.

        Its containers are our sandboxes; `replica_name` may name a session.
        """
        request = Request(scope, receive)
        agent, query = await agent_of(request, self._store), request.query_params
        version = request.path_params["version"]
        known = await self._store.read(lambda conn: agent_rows.get_version(conn, agent.project, agent.name, version))
        if known is None:
            raise NotFound(f"Agent '{agent.name}' has no version '{version}'.", param="agent_version")
        which = Which(agent.project, agent.name, query.get("replica_name") or None, version, _mine(request))
        states = _of_states(query)
        wanted = Wanted(which, only_events=states, tail=_lines(query, USUAL_LINES))
        view = _View(_state_row(None), _text, notices=False) if states else _View(_entry_row, _text)
        await send_stream(request.receive, send, _PLAIN, self._limited(wanted, view, True))

    async def of_agent(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /cupola/projects/{project}/agents/{agent}/logs`: JSON lines, of all sessions that the caller may see."""
        request = Request(scope, receive)
        agent, query = await agent_of(request, self._store), request.query_params
        session = await self._session_meant(request, agent) if query.get("session") else None
        which = Which(agent.project, agent.name, session, query.get("version") or None, _mine(request))
        since, part, tail = _since(query, self._clock()), _part(query), _number(query, "tail", None)
        wanted = Wanted(which, since=since, part=part, tail=tail)
        await send_stream(request.receive, send, _LINES, self._unlimited(wanted, flag(query, "follow")))

    async def _session_meant(self, request: Request, agent: Agent) -> str:
        """The session whose id is given, or its beginning, as people copy it from the output of commands."""
        wanted = request.query_params["session"]
        found = await self._store.read(
            lambda conn: session_rows.sessions_beginning(conn, agent.project, agent.name, wanted, 2)
        )
        if len(found) > 1 and found[0].id != wanted:
            raise BadRequest(
                f"Several sessions of agent '{agent.name}' begin with {brief(wanted)}: write more of the id.",
                param="session",
            )
        request.path_params["session"] = found[0].id if found else wanted
        return (await session_of(request, agent, self._store)).id

    async def _unlimited(self, wanted: Wanted, follow: bool) -> AsyncGenerator[bytes]:
        view = _View(_own_row, _json_line)
        with self._transcripts.open(wanted) as reading:
            async for entries in reading.history():
                yield view.entries(entries)
            if follow:
                yield b"\n"  # what was ends here
            while follow and not reading.over:
                yield view.entries(await reading.more(self._limits.keep_alive)) or b"\n"

    async def _limited(self, wanted: Wanted, view: _View, follow: bool) -> AsyncGenerator[bytes]:
        with self._transcripts.open(wanted) as reading:
            yield view.notice(self._clock(), _CONNECTED)
            async for entries in reading.history():
                yield view.entries(entries)
            if follow:
                async with aclosing(self._live(reading, view)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _live(self, reading: Reading, view: _View) -> AsyncGenerator[bytes]:
        loop, limits = asyncio.get_running_loop(), self._limits
        last = told = loop.time()
        end = last + limits.total
        while (now := loop.time()) < min(end, last + limits.silence) and not reading.over:
            entries = await reading.more(min(end, last + limits.silence, told + limits.heartbeat) - now)
            if entries:
                last = told = loop.time()
                yield view.entries(entries)
            elif loop.time() >= told + limits.heartbeat:
                told += limits.heartbeat
                yield view.notice(self._clock(), f"No logs since last {limits.heartbeat:g} seconds")


def _mine(request: Request) -> str | None:
    """Whose sessions the caller sees: its own, or an operator all, and what never had a session."""
    caller = caller_of(request)
    return None if caller.role.covers(Role.OPERATOR) else caller.user


def _entry_row(entry: Entry) -> Row:
    return _line_row(entry.at, entry.stream, entry.text)


def _line_row(at: float, stream: Stream, text: str) -> Row:
    return {"timestamp": _time(at), "stream": stream, "message": text}


def _state_row(session: Session | None) -> Callable[[Entry], Row]:
    """The wire's other shape: what state a sandbox has come to."""

    def row(entry: Entry) -> Row:
        run = entry.run
        accessed = {} if session is None else {"last_accessed": _time(session.last_accessed_at)}
        return {
            "timestamp": _time(entry.at),
            "session_id": run.session,
            "session_state": _state(entry),
            "agent": run.agent,
            "version": run.version,
            **accessed,
        }

    return row


def _state(entry: Entry) -> str:
    if entry.event is Event.ENDED:
        return "Stopped" if entry.run.failure is None else "Failed"
    return "Running" if entry.event is Event.READY else "Starting"


def _own_row(entry: Entry) -> Row:
    return {
        "time": _time(entry.at),
        "version": entry.run.version,
        "session": entry.run.session,
        "sandbox": entry.run.sandbox,
        "start_type": entry.run.start_type,
        "phase": entry.part,
        "stream": entry.stream,
        "event": entry.event,
        "text": entry.text,
    }


def _event(row: Row) -> bytes:
    return b"event: log\ndata: " + orjson.dumps(row) + b"\n\n"


def _text(row: Row) -> bytes:
    return (" ".join(str(value) for value in row.values() if value is not None) + "\n").encode()


def _json_line(row: Row) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_states(query: QueryParams) -> bool:
    kind = query.get("kind") or "console"
    if kind not in ("console", "system"):
        raise BadRequest(f"'kind' is {brief(kind)}; it must be console or system.", param="kind")
    return kind == "system"


def _lines(query: QueryParams, usual: int | None) -> int | None:
    return _number(query, "tail", MOST_LINES) or usual


def _number(query: QueryParams, name: str, most: int | None) -> int | None:
    value = query.get(name)
    if not value:
        return None
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if number < 1 or (most is not None and number > most):
        allowed = "a number from 1 on" if most is None else f"a number from 1 to {most}"
        raise BadRequest(f"'{name}' is {brief(value)}; it must be {allowed}.", param=name)
    return number


def _part(query: QueryParams) -> Part | None:
    value = query.get("phase")
    if not value:
        return None
    if value not in list(Part):
        raise BadRequest(f"'phase' is {brief(value)}; it must be start or serve.", param="phase")
    return Part(value)


def _since(query: QueryParams, now: float) -> float | None:
    value = query.get("since")
    if not value:
        return None
    if (seconds := seconds_of(value)) is not None:
        return now - seconds
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise BadRequest(
            f"'since' is {brief(value)}; it must be a duration such as 90s, 10m or 2h, or a time such as "
            "2026-03-10T09:33:17Z.",
            param="since",
        ) from error
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
