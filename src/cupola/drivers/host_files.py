"""The files of a home that is a directory of this host: of a child process, or of an engine's volume.

The agent that lives there is not trusted: it may put a link to `/etc` where a directory was a moment ago. So no path
is resolved: each part is opened in the directory that was opened before it, links are refused by the kernel
(`O_NOFOLLOW`), and a file is looked at again once it is open. Hard links are files like any other: writing never opens
a file that is there, it replaces it, and an agent can make a hard link only to what lies beside it on its own mount.

Uploads grow in `drafts`, a directory of ours on the same file system, and move into the home when they are whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from cupola.drivers.threads import finished
from cupola.errors import Conflict, NotFound, SetupError
from cupola.files import (
    LINK,
    NO_ROOM,
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
    too_deep,
)

PIECE = 256 * 1024
"""Bytes that are read or written in one go."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


class HostFiles:
    """The `HomeFiles` of `home`, which is there.

    `shared` is for volumes: whichever user a container runs as has to work with what we write.
    """

    def __init__(self, home: Path, drafts: Path, *, shared: bool = False) -> None:
        self._home = home
        self._drafts = drafts
        self._shared = shared

    async def stat(self, path: HomePath) -> Entry:
        return await asyncio.to_thread(self._stat, path)

    async def list(self, path: HomePath) -> Sequence[Entry]:
        return await asyncio.to_thread(self._list, path)

    async def open(self, path: HomePath) -> HostFile:
        return await finished(asyncio.to_thread(self._open, path), HostFile.close)

    async def write(self, path: HomePath, pieces: AsyncIterable[bytes]) -> int:
        await asyncio.to_thread(self._require_place, path)
        draft = await finished(asyncio.to_thread(_Draft, self._drafts, path), _Draft.discard)
        try:
            waiting = bytearray()
            async for piece in pieces:
                waiting += piece
                if len(waiting) >= PIECE:
                    await finished(asyncio.to_thread(draft.write, bytes(waiting)))
                    waiting.clear()
            await finished(asyncio.to_thread(self._put, draft, bytes(waiting)))
        finally:
            draft.discard()
        return draft.size

    async def make_directory(self, path: HomePath) -> None:
        await asyncio.to_thread(self._make_directory, path)

    async def delete(self, path: HomePath, *, recursive: bool) -> None:
        await finished(asyncio.to_thread(self._delete, path, recursive))

    # The same, in a thread

    def _stat(self, path: HomePath) -> Entry:
        if path.is_home:
            with self._directory(path) as directory:
                return _entry(path, os.fstat(directory))
        with self._directory(path.parent) as directory, _explained(path):
            return _entry(path, _look(directory, path.name))

    def _list(self, path: HomePath) -> Sequence[Entry]:
        found = []
        with self._directory(path) as directory, _explained(path), os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted since
                    found.append(_entry(path.child(_shown(entry.name)), entry.stat(follow_symlinks=False)))
        return found

    def _open(self, path: HomePath) -> HostFile:
        if path.is_home:
            raise is_a_directory(path)
        with self._directory(path.parent) as directory, _explained(path):
            _require_file(path, _look(directory, path.name))
            descriptor = os.open(path.name, _FILE, dir_fd=directory)
            try:
                found = os.fstat(descriptor)
                _require_file(path, found)
            except BaseException:
                os.close(descriptor)
                raise
            return HostFile(descriptor, path, found)

    def _require_place(self, path: HomePath) -> None:
        """Raises what is in the way of a file at `path`, as far as can be seen now."""
        if path.is_home:
            raise is_a_directory(path)
        try:
            with self._directory(path.parent) as directory:
                _require_no_directory(path, directory)
        except NotFound:
            return  # a parent is missing, and nothing that is there is in the way

    def _put(self, draft: _Draft, rest: bytes) -> None:
        """Writes the rest of a draft and moves it to its place."""
        draft.write(rest)
        path = draft.path
        with self._directory(path.parent, make=True) as directory, _explained(path):
            replaced = _require_no_directory(path, directory)
            self._hand_over(draft.descriptor, directory, replaced)
            os.fsync(draft.descriptor)
            os.replace(draft.file, path.name, dst_dir_fd=directory)

    def _hand_over(self, descriptor: int, directory: int, replaced: os.stat_result | None) -> None:
        """Gives a new file the right mode, and in a volume the owner that a file of the agent's would have there."""
        mode = 0o666 if self._shared else 0o644
        like = os.fstat(directory)
        if replaced is not None and stat.S_ISREG(replaced.st_mode):
            mode |= replaced.st_mode & 0o111  # a program stays one
            like = replaced
        if self._shared:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, mode)

    def _make_directory(self, path: HomePath) -> None:
        with self._directory(path, make=True):
            pass

    def _delete(self, path: HomePath, recursive: bool) -> None:
        if path.is_home:
            raise is_the_home()
        with self._directory(path.parent) as directory, _explained(path):
            if not stat.S_ISDIR(_look(directory, path.name).st_mode):
                os.unlink(path.name, dir_fd=directory)
            elif recursive:
                shutil.rmtree(path.name, dir_fd=directory)  # which walks by descriptors, and follows no link either
            else:
                os.rmdir(path.name, dir_fd=directory)

    # Directories

    @contextmanager
    def _directory(self, path: HomePath, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory at `path`, made with its parents if need be."""
        with _explained(HomePath()):
            descriptor = os.open(self._home, _DIRECTORY)
        try:
            for depth in range(len(path.parts)):
                here = HomePath(path.parts[: depth + 1])
                with _explained(here):
                    inner = self._enter(descriptor, here, make=make)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, directory: int, path: HomePath, *, make: bool) -> int:
        made = make and self._make(directory, path.name)
        try:
            descriptor = os.open(path.name, _DIRECTORY, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise no_directory(path, _kind(_look(directory, path.name).st_mode)) from error
            raise
        if made:
            if self._shared:
                like = os.fstat(directory)
                os.fchown(descriptor, like.st_uid, like.st_gid)
            os.fchmod(descriptor, 0o777 if self._shared else 0o755)
        return descriptor

    def _make(self, directory: int, name: str) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            return False
        return True


class HostFile:
    """The `OpenFile` behind a descriptor."""

    def __init__(self, descriptor: int, path: HomePath, found: os.stat_result) -> None:
        self._descriptor = descriptor
        self.entry = _entry(path, found)
        self.tag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        while start < end:
            wanted = min(PIECE, end - start)
            with _explained(self.entry.path):
                piece = await finished(asyncio.to_thread(os.pread, self._descriptor, wanted, start))
            if not piece:
                raise cut_short(self.entry.path)
            yield piece
            start += len(piece)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)


class _Draft:
    """A file to be, in a directory that only we see."""

    def __init__(self, drafts: Path, path: HomePath) -> None:
        self.path = path
        self.file = drafts / f"{uuid4().hex}.upload"
        self.size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _explained(path):
            self.descriptor = os.open(self.file, flags, 0o600)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        with _explained(self.path):
            while left:
                left = left[os.write(self.descriptor, left) :]
        self.size += len(data)

    def discard(self) -> None:
        """Closes it, and removes what did not become a file of the home."""
        os.close(self.descriptor)
        self.file.unlink(missing_ok=True)


def _look(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _require_file(path: HomePath, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise is_a_directory(path)
    if not stat.S_ISREG(found.st_mode):
        raise no_file(path, _kind(found.st_mode))


def _require_no_directory(path: HomePath, directory: int) -> os.stat_result | None:
    """What stands at `path` and may be replaced."""
    try:
        found = _look(directory, path.name)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise is_a_directory(path)
    return found


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return LINK
    return "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"


def _entry(path: HomePath, found: os.stat_result) -> Entry:
    directory = stat.S_ISDIR(found.st_mode)
    size = 0 if directory else found.st_size
    return Entry(path, directory, size, found.st_mtime, stat.S_IMODE(found.st_mode))


def _shown(name: str) -> str:
    """A name as it was given by the agent, which may be any bytes."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def _explained(path: HomePath) -> Iterator[None]:
    """What the file system refuses becomes an error of ours about `path`."""
    try:
        yield
    except RecursionError as error:  # of `rmtree`, in a tree that nobody grows by accident
        raise too_deep(path) from error
    except FileNotFoundError as error:
        raise missing(path) from error
    except (IsADirectoryError, FileExistsError) as error:
        raise is_a_directory(path) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room() from error
        if error.errno == errno.ENOTEMPTY:
            raise not_empty(path) from error
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it became a link or a pipe just now
            raise no_file(path, LINK if error.errno == errno.ELOOP else _kind(stat.S_IFIFO)) from error
        if error.errno in _FORBIDDEN:
            raise Conflict(
                f"The agent has taken the right to read or change '{path}' from everybody: let it give that back.",
                param="path",
            ) from error
        raise SetupError(f"The files of this session cannot be used: {error.strerror}.", code="storage_io") from error
