"""The files of a fake home: a dictionary from paths to contents, in which `a/` is an empty directory `a`.

Left out: links, pipes, modes and times. What an agent may do with those is the business of real file systems.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence

from cupola.files import (
    Entry,
    HomePath,
    is_a_directory,
    is_the_home,
    missing,
    no_directory,
    no_room,
    not_empty,
)


class FakeFiles:
    """The `HomeFiles` over `files`. While `is_full` says so, nothing more can be written."""

    def __init__(self, files: dict[str, bytes], is_full: Callable[[], bool]) -> None:
        self._files = files
        self._is_full = is_full

    async def stat(self, path: HomePath) -> Entry:
        if str(path) in self._files:
            return Entry(path, False, len(self._files[str(path)]), 0.0, 0o644)
        self._require_directory(path)
        return Entry(path, True, 0, 0.0, 0o755)

    async def list(self, path: HomePath) -> Sequence[Entry]:
        self._require_directory(path)
        start = _start(path)
        names = {key.removeprefix(start).partition("/")[0] for key in self._files if key.startswith(start)}
        return [await self.stat(path.child(name)) for name in names if name]

    async def open(self, path: HomePath) -> FakeFile:
        if (await self.stat(path)).is_directory:
            raise is_a_directory(path)
        return FakeFile(await self.stat(path), self._files[str(path)])

    async def write(self, path: HomePath, pieces: AsyncIterable[bytes]) -> int:
        self._require_place(path)
        content = b"".join([piece async for piece in pieces])
        if self._is_full():
            raise no_room()
        self._require_place(path)
        await self.make_directory(path.parent)
        self._files[str(path)] = content
        return len(content)

    async def make_directory(self, path: HomePath) -> None:
        for depth in range(1, len(path.parts) + 1):
            here = HomePath(path.parts[:depth])
            if str(here) in self._files:
                raise no_directory(here)
            if self._is_full():
                raise no_room()
            self._files[_start(here)] = b""

    async def delete(self, path: HomePath, *, recursive: bool) -> None:
        if path.is_home:
            raise is_the_home()
        if self._files.pop(str(path), None) is not None:
            return
        self._require_directory(path)
        inside = [key for key in self._files if key.startswith(_start(path))]
        if inside != [_start(path)] and not recursive:
            raise not_empty(path)
        for key in inside:
            del self._files[key]

    def _require_directory(self, path: HomePath) -> None:
        for depth in range(1, len(path.parts) + 1):
            here = HomePath(path.parts[:depth])
            if str(here) in self._files:
                raise no_directory(here)
            if not any(key.startswith(_start(here)) for key in self._files):
                raise missing(path)

    def _require_place(self, path: HomePath) -> None:
        if path.is_home or any(key.startswith(_start(path)) for key in self._files):
            raise is_a_directory(path)
        for depth in range(1, len(path.parts)):
            if str(here := HomePath(path.parts[:depth])) in self._files:
                raise no_directory(here)


class FakeFile:
    """The `OpenFile` of some content."""

    def __init__(self, entry: Entry, content: bytes) -> None:
        self.entry = entry
        self.tag = hashlib.sha256(content).hexdigest()[:16]
        self._content = content

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        yield self._content[start:end]

    async def aclose(self) -> None:
        """Nothing is held."""


def _start(path: HomePath) -> str:
    """With what the keys of everything in a directory begin."""
    return "" if path.is_home else f"{path}/"
