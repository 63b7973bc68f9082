"""Reads a tar stream of a home as it passes: counts its bytes, and leaves out what is no file.

Engines hand out and take directories as tar. Nothing is buffered but one header and what extends it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

BLOCK = tarfile.BLOCKSIZE
_EXTENDS = {tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_LEFT_OUT = {tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE}
_WITHOUT_BYTES = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, *_LEFT_OUT}


class ArchiveBroken(Exception):
    """The stream is no archive, or ended before the archive did."""


class HomeArchive:
    """One archive passing by. `size` is what its files hold so far, `whole` whether its end was seen."""

    def __init__(self) -> None:
        self.size = 0
        self.whole = False
        self._unread = b""
        self._head = b""
        self._body = 0
        self._extension: bytes | None = None
        self._large: int | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Takes the next piece of the stream and yields what goes on."""
        self._unread += piece
        while self._unread and not self.whole:
            if self._body:
                taken, self._unread = self._unread[: self._body], self._unread[self._body :]
                self._body -= len(taken)
                if self._extension is None:
                    yield taken
                else:
                    self._extend(taken)
            elif len(self._unread) >= BLOCK:
                block, self._unread = self._unread[:BLOCK], self._unread[BLOCK:]
                yield self._read(block)
            else:
                return

    def end(self) -> bytes:
        """What ends the archive that goes on; raises when the one that came has none."""
        if not self.whole:
            raise ArchiveBroken("the archive ended in the middle")
        return bytes(2 * BLOCK)

    def _read(self, block: bytes) -> bytes:
        if block == bytes(BLOCK):
            self.whole = True
            return b""
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ArchiveBroken(f"what came is no archive: {error}") from error
        self._head += block
        if header.type in _EXTENDS:
            self._body = _padded(header.size)
            self._extension = b"" if self._body else None
            return b""
        size = 0 if header.type in _WITHOUT_BYTES else header.size if self._large is None else self._large
        self._large = None
        self._body = _padded(size)
        if header.type in tarfile.REGULAR_TYPES:
            self.size += size
        head, self._head = self._head, b""
        return b"" if header.type in _LEFT_OUT else head

    def _extend(self, taken: bytes) -> None:
        """An extension belongs to the header that follows: only that says whether both go on."""
        assert self._extension is not None
        self._head += taken
        self._extension += taken
        if not self._body:
            self._large = _size_in(self._extension) if self._large is None else self._large
            self._extension = None


def _size_in(records: bytes) -> int | None:
    """The size in pax records (`12 size=345\\n`), where a header is too narrow for it."""
    for line in records.split(b"\n"):
        _, _, record = line.partition(b" ")
        if record.startswith(b"size=") and record[5:].isdigit():
            return int(record[5:])
    return None


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
