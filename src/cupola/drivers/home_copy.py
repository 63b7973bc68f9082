"""Makes one directory an exact copy of another: the files of a home that is snapshotted, restored or forked.

Where the file system can share blocks between files (Btrfs, XFS, bcachefs, ZFS), a copy shares them until either side
is written to (`FICLONE`); elsewhere the bytes are copied, holes left as holes. Kept are modes, times, links, hard
links among the files, and owners where we may give them away. Left out are extended attributes, and what is no file:
FIFOs, sockets and devices.

The source may belong to an agent that runs, and plays tricks. So it is walked by descriptors that follow no link; what
vanishes meanwhile is passed over, and a copy of a home in use is what a power cut would have left there. The target
is nobody's yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cupola.errors import Conflict
from cupola.files import room_explained

if sys.platform != "win32":
    import fcntl

FICLONE = 0x40049409
"""Shares all blocks of one file with another: `ioctl_ficlone(2)`."""

DEEPEST = 200
"""Directories within each other that are copied. Two descriptors are open for each, and the server needs its own."""

PIECE = 4 << 20
"""Bytes that are copied between two looks at whether the copy is still wanted."""

AT_ONCE = 2
"""Copies that run side by side: they compete for one disk, and nobody else waits for their threads."""

_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
_NO_LINK = {errno.ELOOP, errno.ENOTDIR}
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ_FILE = _READ | getattr(os, "O_NONBLOCK", 0)  # what has become a FIFO since must not keep us waiting
_READ_DIRECTORY = _READ | getattr(os, "O_DIRECTORY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


class GivenUp(Exception):
    """Nobody wants the copy any more; what was made of it stays."""


class Copying:
    """The threads in which a driver copies homes, apart from those that everything else uses."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cupola-copy")

    async def copy(self, source: Path, target: Path) -> int:
        """See `copy_tree`. Cancelled, it ends soon, and has ended when this returns.

        Raises `SetupError` (`storage_full`) when there is no room for the copy.
        """
        unwanted = threading.Event()
        running = asyncio.get_running_loop().run_in_executor(self._threads, copy_tree, source, target, unwanted)
        try:
            with room_explained():
                return await asyncio.shield(running)
        except asyncio.CancelledError:
            unwanted.set()
            await asyncio.wait([running])
            running.cancelled() or running.exception()
            raise

    def close(self) -> None:
        """Copies under way must have been cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def copy_tree(source: Path, target: Path, unwanted: threading.Event | None = None) -> int:
    """Fills the empty directory `target` with what `source` holds; returns the bytes of the files in it.

    Raises `Conflict` when a file may not be read or directories nest too deep, `GivenUp` once `unwanted` is set.
    """
    copy = _Copy(target, unwanted or threading.Event())
    with _opened(os.open(source, _READ_DIRECTORY)) as whence, _opened(os.open(target, _READ_DIRECTORY)) as whither:
        copy.fill(whence, whither, "")
        _dress(os.fstat(whence), whither)
    return copy.size


class _Copy:
    """One copy under way: what it has copied so far."""

    def __init__(self, target: Path, unwanted: threading.Event) -> None:
        self.size = 0
        self._target = target
        self._unwanted = unwanted
        self._linked: dict[tuple[int, int], str] = {}

    def fill(self, source: int, target: int, inside: str, depth: int = 0) -> None:
        """Copies what the directory `source` holds into the empty directory `target`, both open."""
        if depth > DEEPEST:
            raise Conflict(f"The home cannot be copied: it holds more than {DEEPEST} directories within each other.")
        for name in os.listdir(source):
            self._go_on()
            path = f"{inside}/{name}" if inside else name
            try:
                self._copy(source, target, name, path, depth)
            except FileNotFoundError:
                continue  # removed since it was listed
            except PermissionError as error:
                raise Conflict(
                    f"The home cannot be copied: {path} may not be read; let the agent change its mode."
                ) from error
            except OSError as error:
                if error.errno not in _NO_LINK:  # a link has taken its place since
                    raise

    def _copy(self, source: int, target: int, name: str, path: str, depth: int) -> None:
        seen = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(seen.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            with contextlib.suppress(PermissionError):
                os.chown(name, seen.st_uid, seen.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(seen.st_atime_ns, seen.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(seen.st_mode):
            with _opened(os.open(name, _READ_DIRECTORY, dir_fd=source)) as whence:
                os.mkdir(name, 0o700, dir_fd=target)
                with _opened(os.open(name, _READ_DIRECTORY, dir_fd=target)) as whither:
                    self.fill(whence, whither, path, depth + 1)
                    _dress(os.fstat(whence), whither)
        elif stat.S_ISREG(seen.st_mode):
            with _opened(os.open(name, _READ_FILE, dir_fd=source)) as whence:
                self._copy_file(whence, target, name, path)

    def _copy_file(self, source: int, target: int, name: str, path: str) -> None:
        seen = os.fstat(source)
        if not stat.S_ISREG(seen.st_mode):
            return
        itself = (seen.st_dev, seen.st_ino)
        if seen.st_nlink > 1 and itself in self._linked:
            os.link(self._target / self._linked[itself], name, dst_dir_fd=target, follow_symlinks=False)
            return
        with _opened(os.open(name, _WRITE, 0o600, dir_fd=target)) as whither:
            if not shares_blocks(source, whither):
                for offset, length in _filled(source, seen.st_size):
                    self._copy_bytes(source, whither, offset, length)
                os.ftruncate(whither, seen.st_size)
            self.size += os.fstat(whither).st_size
            _dress(seen, whither)
        if seen.st_nlink > 1:
            self._linked[itself] = path

    def _copy_bytes(self, source: int, target: int, offset: int, length: int) -> None:
        while length > 0:
            self._go_on()
            copied = copy_piece(source, target, offset, min(length, PIECE))
            if not copied:
                return  # cut short since
            offset, length = offset + copied, length - copied

    def _go_on(self) -> None:
        if self._unwanted.is_set():
            raise GivenUp


def shares_blocks(source: int, target: int) -> bool:
    """Makes the open file `target` share all blocks of `source`; False where the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def copy_piece(source: int, target: int, offset: int, length: int) -> int:
    """Copies bytes between two open files, in the kernel where it can; returns how many, 0 at the end of `source`."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, length, offset, offset)
        except OSError as error:
            if error.errno not in _CANNOT_SHARE:
                raise
    return os.pwrite(target, os.pread(source, length, offset), offset)


def _filled(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file holds bytes that were written, as offset and length; the rest are holes."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            begin = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole follows
        end = min(os.lseek(file, begin, os.SEEK_HOLE), size)
        yield begin, end - begin


def _dress(seen: os.stat_result, target: int) -> None:
    """Gives an open file or directory the owner, mode and times of another; a change of owner comes first."""
    with contextlib.suppress(PermissionError):
        os.fchown(target, seen.st_uid, seen.st_gid)
    os.fchmod(target, stat.S_IMODE(seen.st_mode))
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
