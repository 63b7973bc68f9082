"""The output of a process, read from the file that it writes to itself.

The process holds the file open and outlives the platform, so the file is where its output waits. What was read and
kept is let go of: a hole is punched into the file, or where the file system knows no holes it is cut to nothing once
all is read. Either way an agent that talks much does not fill the disk while the platform runs.

The time of lines is that of the last write as the file system tells it. That is up to one tick of the kernel early, and
a line would seem to come before the request that it answers: so a tick is added, as far as that is not yet to come. And
no line is older than the last look, at which it was not there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Self

from cupola.drivers.base import LONGEST_LINE
from cupola.drivers.lines import cut_length, cut_lines
from cupola.drivers.process_files import LONGEST_TAIL
from cupola.runs import OutputLine, Stream

_PIECE = 64 * 1024
"""Bytes that are read in one go: a fraction of a millisecond."""
_WORTH_A_HOLE = 1024 * 1024
_LONGEST_UNCUT = 16 * 1024 * 1024
_BLOCK = 4096
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
_REALTIME_COARSE = 5
"""The clock by which Linux dates files (clock_gettime(2)); Python has no name for it."""
_TICK = time.clock_getres(_REALTIME_COARSE) if sys.platform == "linux" else 0.0
"""Seconds; how far behind it may be."""


class Tail:
    """Reads one file as it grows. `position` is behind the last line that was read."""

    def __init__(self, file: Path, position: int | None) -> None:
        """Begins at `position`, or where there is something. Raises FileNotFoundError."""
        self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self.position = _first_byte(self._descriptor) if position is None else position
        self._released = 0
        self._looked_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def read(self, *, ended: bool) -> list[OutputLine]:
        """Some lines more; none when there are none yet. Once `ended`, a last line needs no end."""
        looks_at, state = time.time(), os.fstat(self._descriptor)
        if state.st_size < self.position:
            self.position = 0  # cut, see `release`
        piece = os.pread(self._descriptor, _PIECE, self.position) if state.st_size > self.position else b""
        whole = piece.rfind(b"\n") + 1
        if not whole and (ended or len(piece) > LONGEST_LINE):
            whole = cut_length(piece)
        at = min(max(state.st_mtime + _TICK, self._looked_at), time.time())
        if self.position + len(piece) >= state.st_size:
            self._looked_at = looks_at
        self.position += whole
        return [OutputLine(at, Stream.STDOUT, text) for text in cut_lines(piece[:whole])]

    def release(self) -> None:
        """Lets go of what was read, but for so much of it that the last lines can be shown."""
        end = (self.position - LONGEST_TAIL) // _BLOCK * _BLOCK
        if end - self._released < _WORTH_A_HOLE:
            return
        if _punch(self._descriptor, self._released, end - self._released):
            self._released = end
        elif self.position >= _LONGEST_UNCUT and os.fstat(self._descriptor).st_size == self.position:
            os.ftruncate(self._descriptor, 0)  # what is written in this very instant is lost
            self.position = self._released = 0


def _first_byte(descriptor: int) -> int:
    """Where the first hole ends."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except (OSError, AttributeError):  # nothing but holes, or a system that knows none
        return 0


def _punch(descriptor: int, start: int, length: int) -> bool:
    """Gives a part of a file back to the file system; False where that cannot be done."""
    fallocate = _fallocate()
    if fallocate is None:
        return False
    if fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, start, length) == 0:
        return True
    return ctypes.get_errno() == errno.EINTR


@cache
def _fallocate() -> Any:
    """The system's call, which Python does not offer."""
    if sys.platform != "linux":
        return None
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return fallocate
