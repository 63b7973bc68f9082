"""Debug bundles: `GET /cupola/projects/{project}/agents/{agent}/sessions/{session}/bundle`.

For the session's owner, or an operator. The archive is made while it is sent. Every text in it goes through
`masking`: neither the values of variables that are not plainly harmless nor the platform's own tokens are in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from cupola import __version__, bundles
from cupola.agents import Agent, AgentVersion
from cupola.api.owned import agent_of, session_of
from cupola.api.sessions import show_session
from cupola.api.stats import Writing, timings_since
from cupola.conversations import StoredResponse, for_client
from cupola.drivers.base import HomeFiles
from cupola.errors import CupolaError, NotFound
from cupola.files import HomePath
from cupola.masking import Mask, OutputMask, hidden_values, shown_variables
from cupola.runs import Run
from cupola.sandboxes.places import Places, image_of
from cupola.sandboxes.start import Starter
from cupola.sandboxes.transcript import Transcripts, Wanted
from cupola.sessions import Session
from cupola.store import Page, Store
from cupola.store import agents as agent_rows
from cupola.store import conversations as conversation_rows
from cupola.store import responses as response_rows
from cupola.store import runs as run_rows
from cupola.store import sessions as session_rows
from cupola.timings import Timing
from cupola.web.archive import Archive
from cupola.web.stream import send_stream
from cupola.web.wire import show_failure, show_version

MOST_FILES = 10_000
"""Entries of a home that are listed; `files.json` says whether there were more."""
_AT_ONCE = 50
"""Responses of one read: each has its items with it."""
_BEFORE = 3600.0
"""Seconds that a session's first request may have waited, at most, until the session was made."""
_EVERYTHING = Page(limit=-1, order="asc")


@dataclass(frozen=True, slots=True)
class _About:
    """What a bundle is about, and what must not be in it."""

    agent: Agent
    version: AgentVersion
    session: Session
    environment: Mapping[str, str]
    runs: Sequence[Run]
    timings: Sequence[Timing]
    mask: Mask


class Bundles:
    """`secret` gives the `IDENTITY_HEADER` of a sandbox, `clock` unix seconds."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        places: Places,
        transcripts: Transcripts,
        timekeeper: Writing,
        secret: Callable[[str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._starter = starter
        self._places = places
        self._transcripts = transcripts
        self._timekeeper = timekeeper
        self._secret = secret
        self._clock = clock

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        agent = await agent_of(request, self._store)
        about = await self._about(agent, await session_of(request, agent, self._store))
        await send_stream(receive, send, "application/zip", self._pieces(about))

    async def _about(self, agent: Agent, session: Session) -> _About:
        def question(conn: Any) -> tuple[AgentVersion | None, list[Run]]:
            which = run_rows.Which(agent.project, agent.name, session.id)
            return agent_rows.get_version(conn, *session.key[:2], session.version), run_rows.runs_of(conn, which)

        version, runs = await self._store.read(question)
        if version is None:
            raise NotFound(f"Version {agent.name}:{session.version} of session '{session.id}' was deleted.")
        place = await self._places.keeping(version.definition)
        row = self._starter.new_row(version, place, session, session.id)
        environment = self._starter.environment(row, agent, version, place)
        since = session.created_at - _BEFORE  # its first request had begun before it
        timings = await timings_since(self._store, self._timekeeper, agent, since)
        secrets = [*hidden_values(environment), *hidden_values(version.definition.environment)]
        secrets += [self._secret(run.sandbox) for run in runs]
        own = [timing for timing in timings if timing.session == session.id]
        return _About(agent, version, session, environment, runs, own, Mask(secrets))

    async def _pieces(self, about: _About) -> AsyncGenerator[bytes]:
        archive = Archive(self._clock())
        for name, value in await self._small_members(about):
            archive.add(name, _json(about.mask.json(value)))
        # Its names stay although they look like those of secrets: what is secret of it is gone already.
        archive.add(bundles.ENVIRONMENT, _json(shown_variables(about.environment)))
        yield archive.take()
        for name, rows in (
            (bundles.OUTPUT, self._output(about)),
            (bundles.RESPONSES, self._responses(about)),
            (bundles.CONVERSATIONS, self._conversations(about)),
            (bundles.TIMINGS, _in_pieces([timing._asdict() for timing in about.timings])),
        ):
            with archive.member(name) as member:
                async for piece in rows:
                    member.write(b"".join(_line(row) for row in piece))
                    yield archive.take()
        archive.close()
        yield archive.take()

    async def _small_members(self, about: _About) -> list[tuple[str, Any]]:
        manifest = {
            "format": bundles.FORMAT,
            "format_version": bundles.VERSION,
            "made_at": _time(self._clock()),
            "made_by": f"cupola {__version__}",
            "project": about.agent.project,
            "agent": about.agent.name,
            "version": about.version.version,
            "session": about.session.id,
        }
        shown = show_version(about.version, about.agent)
        definition = {**shown.pop("definition")}
        definition["environment_variables"] = shown_variables(about.version.definition.environment)
        return [
            (bundles.MANIFEST, {**manifest, "about_version": _printed(shown, about.mask)}),
            (bundles.DEFINITION, definition),
            (bundles.SESSION, show_session(about.session, self._clock())),
            (bundles.RUNS, [_printed(_show_run(run), about.mask) for run in about.runs]),
            (bundles.FILES, await self._files(about)),
        ]

    async def _files(self, about: _About) -> dict[str, Any]:
        """What stands in the home: names, sizes, times; no contents."""
        try:
            place = await self._places.keeping(about.version.definition)
            files = await place.driver.home_files(about.session.home, image_of(about.version))
            entries, more = ([], False) if files is None else await _walk(files)
        except CupolaError as error:
            return {"entries": [], "more": False, "error": error.message}
        return {"entries": entries, "more": more}

    async def _output(self, about: _About) -> AsyncIterator[list[dict[str, Any]]]:
        masks: dict[str, OutputMask] = {}
        which = run_rows.Which(about.agent.project, about.agent.name, about.session.id)
        with self._transcripts.open(Wanted(which)) as reading:
            async for entries in reading.history():
                yield [
                    {
                        "time": _time(entry.at),
                        "sandbox": entry.run.sandbox,
                        "phase": entry.part,
                        "stream": entry.stream,
                        "event": entry.event,
                        "text": masks.setdefault(entry.run.sandbox, OutputMask(about.mask)).line(entry.text),
                    }
                    for entry in entries
                ]

    async def _responses(self, about: _About) -> AsyncIterator[list[dict[str, Any]]]:
        place: int | None = 0
        while place is not None:

            def question(conn: Any, after: int = place) -> tuple[list[tuple[StoredResponse, Any]], int | None]:
                found, more = response_rows.responses_of_session(conn, *about.session.key, after, _AT_ONCE)
                return [(one, _input_of(conn, one)) for one in found], more

            found, place = await self._store.read(question)
            yield [about.mask.json(_show_response(one, items, about.timings)) for one, items in found]
            await asyncio.sleep(0)

    async def _conversations(self, about: _About) -> AsyncIterator[list[dict[str, Any]]]:
        bound = await self._store.read(lambda conn: session_rows.conversations_of_session(conn, *about.session.key))
        for id in sorted(bound):
            items = partial(
                conversation_rows.list_items, project=about.agent.project, conversation_id=id, page=_EVERYTHING
            )
            found = await self._store.read(items)
            yield [about.mask.json({"id": id, "items": [for_client(item) for item in found.items]})]


async def _walk(files: HomeFiles) -> tuple[list[dict[str, Any]], bool]:
    """The entries of a home, directory after directory, and whether there are more than are listed."""
    found: list[dict[str, Any]] = []
    waiting = [HomePath()]
    while waiting:
        for entry in sorted(await files.list(waiting.pop(0)), key=lambda entry: entry.path.parts):
            if len(found) == MOST_FILES:
                return found, True
            kind = "directory" if entry.is_directory else "file"
            found.append({"path": str(entry.path), "type": kind, "size": entry.size, "modified": _time(entry.modified)})
            if entry.is_directory:
                waiting.append(entry.path)
    return found, False


def _input_of(conn: Any, response: StoredResponse) -> list[Mapping[str, Any]]:
    items = response_rows.get_items(conn, response.project, response.input_item_ids, response.user)
    return [item for item in items if item is not None]


def _show_response(
    response: StoredResponse, items: Sequence[Mapping[str, Any]], timings: Sequence[Timing]
) -> dict[str, Any]:
    timing = bundles.timing_of(response.created_at, timings)
    return {
        "id": response.id,
        "created_at": _time(response.created_at),
        "conversation": response.conversation,
        "background": response.background,
        "input": [for_client(item) for item in items],
        "response": for_client(response.body),
        "timing": None if timing is None else timing._asdict(),
    }


def _printed(shown: dict[str, Any], mask: Mask) -> dict[str, Any]:
    """`shown`, where the lines of a failure are masked as output is."""
    failure = shown.get("failure") or shown.get("error")
    if failure is not None:
        lines = OutputMask(mask)
        failure["log"] = [lines.line(line) for line in failure["log"]]
    return shown


def _show_run(run: Run) -> dict[str, Any]:
    return {
        "sandbox": run.sandbox,
        "version": run.version,
        "driver": run.driver,
        "start_type": run.start_type,
        "began_at": _time(run.began_at),
        "ready_at": None if run.ready_at is None else _time(run.ready_at),
        "ended_at": None if run.ended_at is None else _time(run.ended_at),
        "end_reason": run.end_reason,
        "failure": None if run.failure is None else show_failure(run.failure),
    }


async def _in_pieces(rows: list[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    for begin in range(0, len(rows), 1000):
        yield rows[begin : begin + 1000]
        await asyncio.sleep(0)


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _line(row: Mapping[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
