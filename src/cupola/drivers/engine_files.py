"""The files of a home in a volume that this process may not touch, through the engine that owns it.

For Docker Desktop, rootless engines and users of the docker group. A container over the home is made for each call; the
engine reads and writes archives of what would be seen in it, and it never runs: no tool of its image is needed. Only
to delete something it runs `rm` or `rmdir` of the image, shut off from everything but the home.

The engine resolves paths within that container. So a link that an agent puts in the way at the very moment leads at
most to what the image holds or elsewhere in the home, never to this host. An upload is complete before the engine gets
it; an agent that looks while the engine unpacks it may see it grow.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import IO

import aiohttp
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from cupola.drivers.base import SANDBOX_HOME
from cupola.drivers.docker_connect import TRANSFER
from cupola.drivers.docker_errors import engine_errors
from cupola.drivers.engine_archive import DIRECTORY, FILE, ArchiveReader, Found, listed_entry, made_archive
from cupola.drivers.threads import finished
from cupola.errors import Conflict, NotFound
from cupola.files import (
    Entry,
    HomePath,
    cut_short,
    is_a_directory,
    is_the_home,
    missing,
    no_directory,
    no_file,
    no_room,
    not_empty,
)

_STAT = "X-Docker-Container-Path-Stat"

Container = Callable[[Sequence[str]], AbstractAsyncContextManager[DockerContainer]]
"""Makes a container over the home that would run a command, and removes it at the end."""


class EngineFiles:
    """The `HomeFiles` of the home that the containers of `over_home` have."""

    def __init__(self, client: Docker, over_home: Container) -> None:
        self._client = client
        self._over_home = over_home

    async def stat(self, path: HomePath) -> Entry:
        async with self._looking() as look:
            return (await look.at(path)).entry

    async def list(self, path: HomePath) -> Sequence[Entry]:
        async with self._looking() as look:
            found = await look.at(path)
            if found.kind != DIRECTORY:
                raise no_directory(path, found.kind)
            return await look.inside(path)

    async def open(self, path: HomePath) -> EngineFile:
        async with AsyncExitStack() as stack:
            look = await stack.enter_async_context(self._looking())
            found = await look.at(path)
            if found.kind == DIRECTORY:
                raise is_a_directory(path)
            if found.kind != FILE:
                raise no_file(path, found.kind)
            reply = await stack.enter_async_context(look.packed(path, wanted=path))
            archive = ArchiveReader(reply.content)
            member = await archive.next()
            if member is None or not member.isfile():  # it became something else just now
                raise cut_short(path)
            return EngineFile(Found.read(path, reply.headers[_STAT]), archive.content(member), stack.pop_all())

    async def write(self, path: HomePath, pieces: AsyncIterable[bytes]) -> int:
        async with self._looking() as look:
            new = await look.missing_above(path)
            if not new and await look.is_directory(path):
                raise is_a_directory(path)
            with tempfile.TemporaryFile() as upload:  # an archive says the size before the content
                size = 0
                async for piece in pieces:
                    size += await finished(asyncio.to_thread(upload.write, piece))
                upload.seek(0)
                await look.put(new, (path, upload, size))
        return size

    async def make_directory(self, path: HomePath) -> None:
        async with self._looking() as look:
            if new := await look.missing_above(path.child("inside")):
                await look.put(new, None)

    async def delete(self, path: HomePath, *, recursive: bool) -> None:
        if path.is_home:
            raise is_the_home()
        async with self._looking() as look:
            directory = (await look.at(path)).kind == DIRECTORY
            if directory and not recursive and await look.inside(path):
                raise not_empty(path)
        command = ["rm", "-rf", "--"] if recursive else ["rmdir", "--"] if directory else ["rm", "-f", "--"]
        with engine_errors("delete a file of a home"):
            async with self._over_home([*command, _seen(path)]) as container:
                await _run(container, command[0], path)

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[_Look]:
        with engine_errors("reach the files of a home"):
            async with self._over_home(["never"]) as container:
                yield _Look(self._client, container)


class EngineFile:
    """The `OpenFile` that the engine has begun to pack. `content` is read once; `open` is closed with it."""

    def __init__(self, found: Found, content: AsyncGenerator[bytes], open: AsyncExitStack) -> None:
        self.entry = found.entry
        self.tag = found.tag
        self._content = content
        self._open = open

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        position = 0
        while position < end:
            piece = await anext(self._content, b"")
            if not piece:
                raise cut_short(self.entry.path)
            wanted = piece[max(0, start - position) : max(0, end - position)]
            position += len(piece)
            if wanted:
                yield wanted

    async def aclose(self) -> None:
        await self._content.aclose()
        await self._open.aclose()


class _Look:
    """What the engine says through one container."""

    def __init__(self, client: Docker, container: DockerContainer) -> None:
        self._client = client
        self._address = f"containers/{container.id}/archive"

    async def at(self, path: HomePath) -> Found:
        """What stands there; everything above it is a directory, or raises what it is."""
        for depth in range(len(path.parts)):
            above = HomePath(path.parts[:depth])
            found = await self._find(above, wanted=path)
            if found.kind != DIRECTORY:
                raise no_directory(above, found.kind)
        return await self._find(path, wanted=path)

    async def missing_above(self, path: HomePath) -> Sequence[HomePath]:
        """The directories that have to be made before something can be at `path`."""
        above = [HomePath(path.parts[:depth]) for depth in range(1, len(path.parts))]
        for known, directory in enumerate(above):
            try:
                found = await self._find(directory, wanted=directory)
            except NotFound:
                return above[known:]
            if found.kind != DIRECTORY:
                raise no_directory(directory, found.kind)
        return []

    async def is_directory(self, path: HomePath) -> bool:
        with suppress(NotFound):
            return (await self._find(path, wanted=path)).kind == DIRECTORY
        return False

    async def inside(self, path: HomePath) -> Sequence[Entry]:
        """What stands directly in a directory. The engine sends all that is below it; that is passed over."""
        found = []
        async with self.archive(path) as archive:
            while (member := await archive.next()) is not None:
                entry = listed_entry(path, member)
                if entry is not None:
                    found.append(entry)
        return found

    async def put(self, new: Sequence[HomePath], file: tuple[HomePath, IO[bytes], int] | None) -> None:
        """Makes directories and a file, which belong to whom the directory above them belongs to."""
        first = new[0] if new else file[0] if file is not None else HomePath()
        async with self.archive(first.parent) as archive:
            like = await archive.next()
        owner = (0, 0) if like is None else (like.uid, like.gid)
        query = self._client._query(
            self._address,
            "PUT",
            params={"path": SANDBOX_HOME, "noOverwriteDirNonDir": "1"},
            data=made_archive(new, file, owner),
            headers={"content-type": "application/x-tar"},
            timeout=TRANSFER,
        )
        try:
            async with query as reply:
                reply.close()
        except DockerError as error:
            if "no space" in error.message.lower() or "quota" in error.message.lower():
                raise no_room() from error
            raise

    @asynccontextmanager
    async def archive(self, path: HomePath) -> AsyncIterator[ArchiveReader]:
        """What the engine packs of a path, as it comes."""
        async with self.packed(path, wanted=path) as reply:
            yield ArchiveReader(reply.content)

    async def _find(self, path: HomePath, *, wanted: HomePath) -> Found:
        """Of the headers alone. (To HEAD the engine says no more, and the client library cannot read its errors.)"""
        async with self.packed(path, wanted=wanted) as reply:
            return Found.read(path, reply.headers[_STAT])

    @asynccontextmanager
    async def packed(self, path: HomePath, *, wanted: HomePath) -> AsyncIterator[aiohttp.ClientResponse]:
        """The engine's answer with the archive of a path; `wanted` is what is missing where that is not there."""
        try:
            async with self._client._query(self._address, params={"path": _seen(path)}, timeout=TRANSFER) as reply:
                try:
                    yield reply
                finally:
                    reply.close()  # what is not wanted of it is not waited for
        except DockerError as error:
            if error.status == 404:
                raise missing(wanted) from error
            raise


async def _run(container: DockerContainer, program: str, path: HomePath) -> None:
    try:
        await container.start()
    except DockerError as error:
        raise Conflict(
            f"The image of this session has no program {program!r}; without it, nothing can be deleted in an engine "
            "whose volumes are out of reach. Let the agent delete it.",
            param="path",
        ) from error
    ended = await container.wait()
    if ended["StatusCode"] != 0:
        said = "".join(await container.log(stdout=True, stderr=True)).strip()
        raise Conflict(f"The engine could not delete '{path}': {said[:200]}", param="path")


def _seen(path: HomePath) -> str:
    """The path as the container has it."""
    return "/".join((SANDBOX_HOME, *path.parts))
