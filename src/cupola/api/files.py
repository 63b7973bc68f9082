"""The files of sessions: upload, download, list, stat, make a directory, delete (control-plane.md §2.6).

They are reached where they lie, in the session's home, whether its sandbox runs or not. To look at them counts as an
access of the session, and keeps no sandbox awake. A disabled agent's files can be read and deleted.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cupola.api.owned import agent_of, require_enabled, session_of
from cupola.drivers.base import Driver, HomeFiles, ImageSource, OpenFile
from cupola.errors import BadRequest, NotFound
from cupola.files import Entry, HomePath, is_the_home, missing, read_path
from cupola.sandboxes.places import Places, image_of
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as rows
from cupola.store.paging import Page, PageOf
from cupola.web.body import read_model, read_object, read_pieces
from cupola.web.paging import page_from
from cupola.web.query import flag
from cupola.web.ranges import http_date, wanted_part
from cupola.web.reply import json_reply, no_content
from cupola.web.stream import until_left

MAX_UPLOAD = 50 * 1024 * 1024
"""Bytes of one uploaded file (control-plane.md §3)."""

UNPAGED = 1000
"""Entries of a list without `limit`: azd and the SDK's 2.1.0 read one page and no further."""


class NewDirectory(BaseModel):
    """The body of `files/mkdir`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str


@dataclass(frozen=True, slots=True)
class _Home:
    """A session's home, and where it is; `image` is what runs in it, None for code."""

    session: Session
    driver: Driver
    image: ImageSource | None

    async def files(self) -> HomeFiles | None:
        return await self.driver.home_files(self.session.home, self.image)

    async def existing(self, path: HomePath) -> HomeFiles:
        """The files to find `path` in. Raises NotFound where there is no home yet."""
        files = await self.files()
        if files is None:
            raise missing(path)
        return files

    async def made(self) -> HomeFiles:
        """The files to put something into."""
        await self.driver.make_home(self.session.home, self.image)
        files = await self.files()
        if files is None:
            raise _deleted(self.session)
        return files


class Files:
    """Handlers of `…/sessions/{session}/files…`. `clock` gives unix seconds."""

    def __init__(
        self, store: Store, sandboxes: Sandboxes, places: Places, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._places = places
        self._clock = clock

    async def upload(self, request: Request) -> Response:
        """`PUT files/content?path=`: the body becomes the file."""
        home = await self._home(request, new=True)
        text = _path_text(request)
        path = read_path(text)
        if text.endswith("/"):
            raise BadRequest(f"'path' ends in '/': name the file, such as '{path}/data.csv'.", param="path")
        size = await (await home.made()).write(path, read_pieces(request, MAX_UPLOAD, "a file of a session"))
        await self._require_undeleted(home)
        return json_reply({"path": str(path), "bytes_written": size}, 201)

    async def download(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET files/content?path=`, also a part of it, and `HEAD`."""
        request = Request(scope, receive)
        home = await self._home(request)
        path = read_path(_path_text(request))
        file = await (await home.existing(path)).open(path)
        try:
            await _send_file(file, request, receive, send)
        finally:
            await file.aclose()

    async def list(self, request: Request) -> Response:
        """`GET files?path=`: what stands directly in a directory, by name."""
        home = await self._home(request)
        page = page_from(request.query_params, limit=UNPAGED, order="asc")
        path = read_path(_path_text(request, default="."))
        files = await home.files()
        if files is None and not path.is_home:
            raise missing(path)
        entries = [] if files is None else await files.list(path)
        return json_reply(_show_list(path, _page_of(entries, page)))

    async def stat(self, request: Request) -> Response:
        """`GET files/stat?path=`: one entry."""
        home = await self._home(request)
        path = read_path(_path_text(request))
        return json_reply(show_entry(await (await home.existing(path)).stat(path)))

    async def make_directory(self, request: Request) -> Response:
        """`POST files/mkdir`: one that is there is done."""
        home = await self._home(request, new=True)
        path = read_path(read_model(NewDirectory, await read_object(request)).path)
        files = await home.made()
        await files.make_directory(path)
        await self._require_undeleted(home)
        return json_reply(show_entry(await files.stat(path)), 201)

    async def delete(self, request: Request) -> Response:
        """`DELETE files?path=&recursive=`."""
        home = await self._home(request)
        recursive = flag(request.query_params, "recursive")
        path = read_path(_path_text(request))
        if path.is_home:
            raise is_the_home()
        await (await home.existing(path)).delete(path, recursive=recursive)
        return no_content()

    async def _home(self, request: Request, *, new: bool = False) -> _Home:
        """The home that a request is about; `new` if it brings something that was not there."""
        agent = await agent_of(request, self._store)
        # What a restore is about to replace is nobody's to read or write.
        await self._sandboxes.occupied.free((agent.project, agent.name, request.path_params["session"]))
        session = await session_of(request, agent, self._store)
        request.scope["cupola.session_id"] = session.id
        if new:
            require_enabled(agent)
        version = await self._store.read(
            lambda conn: agent_rows.get_version(conn, session.project, session.agent, session.version)
        )
        if version is None:
            raise _deleted(session)
        place = await self._places.keeping(version.definition)
        self._count_access(session)
        return _Home(session, place.driver, image_of(version))

    def _count_access(self, session: Session) -> None:
        now = self._clock()
        live = self._sandboxes.live.of_session(session.key)
        if live is not None and live.session is not None:
            live.session = live.session.to_accessed(now)
        self._store.write_later(lambda conn: rows.touch_sessions(conn, {session.key: now}))

    async def _require_undeleted(self, home: _Home) -> None:
        """Takes back what was put into the home of a session that was deleted meanwhile: nobody else would."""
        session = await self._store.read(lambda conn: rows.get_session(conn, *home.session.key))
        if session is None or session.home != home.session.home or session.desired is Desired.DELETED:
            await home.driver.delete_home(home.session.home)
            raise _deleted(home.session)


async def _send_file(file: OpenFile, request: Request, receive: Receive, send: Send) -> None:
    etag = f'"{file.tag}"'
    part = wanted_part(request.headers, file.entry.size, etag=etag, modified=file.entry.modified)
    headers = {
        **part.headers,
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
        "etag": etag,
        "last-modified": http_date(file.entry.modified),
        "x-content-type-options": "nosniff",
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 206 if part.partial else 200, "headers": raw})
    if request.method == "HEAD":
        await send({"type": "http.response.body"})
        return
    leaving = asyncio.ensure_future(until_left(receive))
    try:
        async for piece in file.read(part.start, part.end):
            if leaving.done():
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        leaving.cancel()
        await asyncio.wait([leaving])


def _path_text(request: Request, default: str | None = None) -> str:
    """The parameter `path`, decoded once and strictly. Raises BadRequest."""
    try:
        found = parse_qs(request.scope["query_string"].decode("latin-1"), errors="strict").get("path", [])
    except UnicodeDecodeError as error:
        raise BadRequest("'path' is not UTF-8, or not percent-encoded.", param="path") from error
    if len(found) > 1:
        raise BadRequest("'path' is there more than once; send it once.", param="path")
    if not found and default is None:
        raise BadRequest("'path' is missing: name what is meant, from the session's home on.", param="path")
    return found[0] if found else str(default)


def _page_of(entries: Sequence[Entry], page: Page) -> PageOf[Entry]:
    """The part that is wanted, by name. A cursor is a name; it need not be there (any more)."""
    ordered = sorted(entries, key=lambda entry: entry.path.name)
    names = [entry.path.name for entry in ordered]
    lower, upper = (page.after, page.before) if page.order == "asc" else (page.before, page.after)
    begin = 0 if lower is None else bisect_right(names, lower)
    end = len(names) if upper is None else bisect_left(names, upper)
    left = ordered[begin:end] if page.order == "asc" else ordered[begin:end][::-1]
    if page.before is not None and page.after is None:
        return PageOf(left[-page.limit :], has_more=len(left) > page.limit)
    return PageOf(left[: page.limit], has_more=len(left) > page.limit)


def show_entry(entry: Entry) -> dict[str, Any]:
    """An entry as the SDK (`is_directory`) and azd (`is_dir`, `path`, `mode`) read it."""
    return {
        "name": entry.path.name,
        "path": str(entry.path),
        "size": entry.size,
        "is_directory": entry.is_directory,
        "is_dir": entry.is_directory,
        "modified_time": int(entry.modified),
        "mode": entry.mode,
    }


def _show_list(path: HomePath, page: PageOf[Entry]) -> dict[str, Any]:
    names = [entry.path.name for entry in page.items]
    last = names[-1] if names and page.has_more else None
    return {
        "object": "list",
        "path": str(path),
        "entries": [show_entry(entry) for entry in page.items],
        "first_id": names[0] if names else None,
        "last_id": last,
        "pagination_token": last,
        "has_more": page.has_more,
    }


def _deleted(session: Session) -> NotFound:
    return NotFound(f"Session '{session.id}' of agent '{session.agent}' was deleted.", param="agent_session_id")
