"""A zip that is sent while it is made: what was written goes out piece by piece, and no file holds it."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


class Archive:
    """Members are added one after the other; `take` gives the bytes that have come of them since the last time.

    `at` is the time that they bear, in unix seconds.
    """

    def __init__(self, at: float) -> None:
        self._at = time.gmtime(at)[:6]
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w")

    def add(self, name: str, data: bytes) -> None:
        with self.member(name) as member:
            member.write(data)

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """A member to be written piece by piece; no other can be open beside it."""
        about = zipfile.ZipInfo(name, self._at)
        about.compress_type = zipfile.ZIP_DEFLATED
        about.external_attr = 0o600 << 16
        with self._zip.open(about, "w", force_zip64=True) as member:
            yield member

    def take(self) -> bytes:
        return self._sink.take()

    def close(self) -> None:
        """Writes the list of members; `take` has it then."""
        self._zip.close()


class _Sink(io.RawIOBase):
    """Where a zip is written to that can be neither read nor rewound."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]  # any buffer, which typeshed cannot say before 3.12
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
