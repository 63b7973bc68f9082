"""Output on disk: what sandboxes have written, kept after they are gone.

One directory for each sandbox, in it numbered segments of JSON lines: `{"at", "stream", "text"}`, one line for each
line of output, and on the last one of each piece the driver's `mark` behind it. A piece is appended in one write; after
SIGKILL the mark of the last piece says where to go on, and what stands behind it is taken back, so that nothing is
there twice. When a sandbox has filled its share, its oldest segment goes.

Reading is by position, beside the writing: a slow reader holds up nobody, and where its place has been removed
meanwhile it goes on with the oldest that is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from cupola.runs import OutputLine, Stream

log = structlog.get_logger()

_SEGMENTS = 8
"""Of how many segments the share of a session consists: as much as one of them is removed at a time."""
_PIECE = 64 * 1024
_LAST = 8 << 20
"""Bytes at the end of a segment in which its last mark must be."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Behind which byte of which segment."""

    segment: int = 0
    offset: int = 0


class KeptOutput:
    """The directory of all that is kept. `session_bytes` is the share of one session."""

    def __init__(self, root: Path, session_bytes: int) -> None:
        self._root = root
        self._session_bytes = session_bytes
        self._segment_bytes = session_bytes // _SEGMENTS

    def append(self, sandbox: str, lines: Sequence[OutputLine], mark: str) -> bool:
        """Keeps lines; True when that began another segment. Raises OSError, as on a full disk."""
        rows = [{"at": line.at, "stream": line.stream, "text": line.text} for line in lines]
        rows[-1]["mark"] = mark
        data = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        directory = self._root / sandbox
        numbers = self._segments(sandbox)
        number = numbers[-1] if numbers else 0
        full = bool(numbers) and self._size(sandbox, number) >= self._segment_bytes
        if full or not numbers:
            directory.mkdir(mode=0o700, exist_ok=True)
            number += 1
        _append(self._file(sandbox, number), data)
        if full:
            for old in numbers[: -(_SEGMENTS - 1)]:
                self._file(sandbox, old).unlink(missing_ok=True)
        return full

    def mark(self, sandbox: str) -> str | None:
        """The mark behind what is kept, after taking back what a broken write has left; None: nothing is kept."""
        for number in reversed(self._segments(sandbox)):
            found = _last_mark(self._file(sandbox, number))
            if found is not None:
                return found
            self._file(sandbox, number).unlink(missing_ok=True)
        return None

    def read(self, sandbox: str, position: Position) -> tuple[list[OutputLine], Position]:
        """Some lines from a position on, and the position behind them; no lines at the end of what is kept."""
        for number in self._segments(sandbox):
            if number < position.segment:
                continue
            offset = position.offset if number == position.segment else 0
            data = _read_lines(self._file(sandbox, number), offset)
            position = Position(number, offset + len(data))
            if data:
                return _parsed(data), position
        return [], position

    def read_back(self, sandbox: str) -> Iterator[tuple[Position, OutputLine]]:
        """All lines from the last to the first, each with the position in front of it."""
        for number in reversed(self._segments(sandbox)):
            for offset, data in _lines_back(self._file(sandbox, number)):
                if (row := _row(data)) is not None:
                    yield Position(number, offset), _line(row)

    def size(self, sandbox: str) -> int:
        """Bytes that are kept of a sandbox."""
        return sum(self._size(sandbox, number) for number in self._segments(sandbox))

    def trim(self, sandboxes: Sequence[str]) -> list[str]:
        """Brings the sandboxes of one session, oldest first, within its share: the oldest segments go.

        Returns those of which something is left, and the last in any case.
        """
        segments = [(sandbox, number) for sandbox in sandboxes for number in self._segments(sandbox)]
        sizes = {key: self._size(*key) for key in segments}
        excess = sum(sizes.values()) - self._session_bytes
        for key in segments[:-1]:
            if excess <= 0:
                break
            self._file(*key).unlink(missing_ok=True)
            excess -= sizes.pop(key)
        left = {sandbox for sandbox, _ in sizes}
        for sandbox in sandboxes[:-1]:
            if sandbox not in left:
                self.delete(sandbox)
        return [sandbox for sandbox in sandboxes[:-1] if sandbox in left] + [sandboxes[-1]]

    def delete(self, sandbox: str) -> None:
        """Removes what is kept of a sandbox, if there is anything."""
        shutil.rmtree(self._root / sandbox, ignore_errors=True)

    def sandboxes(self) -> list[str]:
        """Of which sandboxes something is kept."""
        return [entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False)]

    def _segments(self, sandbox: str) -> list[int]:
        try:
            return sorted(int(file.stem) for file in (self._root / sandbox).iterdir() if file.suffix == ".jsonl")
        except FileNotFoundError:
            return []

    def _file(self, sandbox: str, number: int) -> Path:
        return self._root / sandbox / f"{number:08}.jsonl"

    def _size(self, sandbox: str, number: int) -> int:
        try:
            return self._file(sandbox, number).stat().st_size
        except FileNotFoundError:
            return 0


def _append(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _last_mark(file: Path) -> str | None:
    """The last mark in a segment, of which whatever follows is cut off."""
    with file.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, end - _LAST))
        data = stream.read()
        stop = data.rfind(b"\n") + 1
        while stop:
            begin = data.rfind(b"\n", 0, stop - 1) + 1
            row = _row(data[begin:stop])
            if row is not None and "mark" in row:
                if start + stop < end:
                    stream.truncate(start + stop)
                return str(row["mark"])
            stop = begin
    return None


def _read_lines(file: Path, offset: int) -> bytes:
    """Whole lines from `offset` on: at least one, if there is one."""
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(_PIECE)
            return data[: data.rfind(b"\n") + 1] or _whole_line(data, stream.readline())
    except FileNotFoundError:  # removed meanwhile
        return b""


def _whole_line(begun: bytes, rest: bytes) -> bytes:
    """A line that was longer than the piece, if it is whole by now."""
    return begun + rest if rest.endswith(b"\n") else b""


def _lines_back(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from the last to the first, each with its offset."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:  # removed meanwhile
        return
    with stream:
        start = stream.seek(0, os.SEEK_END)
        rest = b""
        while start:
            end, start = start, max(0, start - _PIECE)
            stream.seek(start)
            data = stream.read(end - start) + rest
            cut = data.find(b"\n") + 1 if start else 0
            if start and cut in (0, len(data)):
                rest = data  # a line longer than the piece
                continue
            at = start + len(data)
            for line in reversed(data[cut:].splitlines(keepends=True)):
                at -= len(line)
                yield at, line
            rest = data[:cut]


def _parsed(data: bytes) -> list[OutputLine]:
    return [_line(row) for line in data.splitlines() if (row := _row(line)) is not None]


def _line(row: dict[str, Any]) -> OutputLine:
    return OutputLine(row["at"], Stream(row["stream"]), row["text"])


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:  # of a write that was broken off, or a damaged disk
        log.warning("a line of kept output cannot be read", bytes=len(line))
        return None
    return row if isinstance(row, dict) else None
