"""Archives as a container engine hands files over and takes them: read as they come, made from what was received."""

from __future__ import annotations

import asyncio
import base64
import json
import tarfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Self

import aiohttp

from cupola.drivers.threads import finished
from cupola.files import LINK, Entry, HomePath

PIECE = 256 * 1024
"""Bytes that are passed on in one go."""

FILE = "a file"
DIRECTORY = "a directory"

_GO_KINDS = ((1 << 31, DIRECTORY), (1 << 27, LINK), (0x07_28_00_00, "a pipe, socket or device"))
"""Bits of a file mode as Go has them, in which engines are written."""


class ArchiveReader:
    """Walks an archive while it comes, in threads: the library that knows archives waits for its bytes."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._archive: tarfile.TarFile | None = None

    async def next(self) -> tarfile.TarInfo | None:
        """The next thing in it; None at its end."""
        return await finished(asyncio.to_thread(self._next))

    async def content(self, member: tarfile.TarInfo) -> AsyncGenerator[bytes]:
        """The bytes of the file that `next` has just named."""
        assert self._archive is not None
        file = self._archive.extractfile(member)
        while file is not None and (piece := await finished(asyncio.to_thread(file.read, PIECE))):
            yield piece

    def _next(self) -> tarfile.TarInfo | None:
        if self._archive is None:
            self._archive = tarfile.open(fileobj=self, mode="r|", errors="surrogateescape")  # type: ignore[call-overload]  # noqa: SIM115 (it holds nothing: what it reads from is the engine's reply)
        found: tarfile.TarInfo | None = self._archive.next()
        return found

    def read(self, size: int) -> bytes:
        """As a file has it; called in a thread by the library."""
        return asyncio.run_coroutine_threadsafe(self._content.read(size), self._loop).result()


def listed_entry(directory: HomePath, member: tarfile.TarInfo) -> Entry | None:
    """What an archive of `directory` says of one of its direct children; None for all else.

    Names begin with that of the directory; Podman calls the directory of a volume itself `/`.
    """
    _, _, rest = member.name.rstrip("/").partition("/")
    if not rest or "/" in rest:
        return None
    name = rest.encode(errors="surrogateescape").decode(errors="backslashreplace")
    size = 0 if member.isdir() else len(member.linkname.encode(errors="surrogateescape")) or member.size
    return Entry(directory.child(name), member.isdir(), size, float(int(member.mtime)), member.mode & 0o777)


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine says of a path without packing it. `kind` is in words."""

    entry: Entry
    kind: str
    tag: str

    @classmethod
    def read(cls, path: HomePath, header: str) -> Self:
        """Of the header that comes with the answer to HEAD."""
        found = json.loads(base64.b64decode(header))
        mode = int(found["mode"])
        kind = next((kind for bits, kind in _GO_KINDS if mode & bits), FILE)
        size = {DIRECTORY: 0, LINK: len(found.get("linkTarget", "").encode())}.get(kind, found["size"])
        modified = float(int(datetime.fromisoformat(found["mtime"]).timestamp()))
        return cls(Entry(path, kind == DIRECTORY, size, modified, mode & 0o777), kind, f"{found['mtime']}-{size}")


def made_archive(
    directories: Sequence[HomePath], file: tuple[HomePath, IO[bytes], int] | None, owner: tuple[int, int]
) -> AsyncGenerator[bytes]:
    """An archive of new directories and perhaps a file with its content and size, in the order in which they come."""
    return _pieces([_entry(path, tarfile.DIRTYPE, 0o777, owner) for path in directories], file, owner)


async def _pieces(
    directories: Sequence[tarfile.TarInfo], file: tuple[HomePath, IO[bytes], int] | None, owner: tuple[int, int]
) -> AsyncGenerator[bytes]:
    for directory in directories:
        yield directory.tobuf(tarfile.PAX_FORMAT)
    if file is not None:
        path, content, size = file
        entry = _entry(path, tarfile.REGTYPE, 0o666, owner)
        entry.size = size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        while piece := await finished(asyncio.to_thread(content.read, PIECE)):
            yield piece
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(path: HomePath, kind: bytes, mode: int, owner: tuple[int, int]) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.mode = kind, mode
    entry.uid, entry.gid = owner
    entry.mtime = time.time()
    return entry
