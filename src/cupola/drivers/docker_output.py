"""What the log of a container engine says: frames into lines, and the place up to which they were read.

The engine stamps what it has read from each stream and sends it in frames; a long line comes in several. Lines of one
stream keep their order, those of the two may change places by microseconds; so a place in the log is told for each
stream: the stamp of its last line, and how many frames had that stamp (Docker stamps all frames of a line alike,
Podman all lines that it reads at once).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cupola.drivers.lines import cut_lines
from cupola.runs import OutputLine, Stream

_HEADER = 8
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}
_LONGEST_HELD = 1024 * 1024
"""Bytes of a line without end that are held until it ends."""
_SECOND = 1_000_000_000
_SLACK = 2
"""Seconds in front of the mark from which on the log is read again: what is known is passed over."""


@dataclass(slots=True)
class _Place:
    """How far one stream was read, and what has come of its next line. Stamps are in nanoseconds.

    `count` frames of the stamp `stamp` are behind us; of the frame that came last, `newest` is the stamp, and it is the
    `nth` of those.
    """

    stamp: int = 0
    count: int = 0
    newest: int = 0
    nth: int = 0
    pending: bytearray = field(default_factory=bytearray)
    began: int = 0


class LogReader:
    """Reads one answer of the engine, of which what lies in front of a mark is passed over."""

    def __init__(self, after: str | None) -> None:
        known: dict[str, list[int]] = {} if after is None else json.loads(after)
        self._places = {stream: _Place(*known.get(stream.value, ())) for stream in _STREAMS.values()}
        self._buffer = bytearray()

    @property
    def mark(self) -> str:
        """Behind the last line of each stream."""
        return json.dumps({stream: [place.stamp, place.count] for stream, place in self._places.items()})

    @property
    def query(self) -> dict[str, Any]:
        """What to ask the engine for."""
        newest = max(place.stamp for place in self._places.values()) // _SECOND
        return {"stdout": 1, "stderr": 1, "timestamps": 1, "since": max(0, newest - _SLACK)}

    def feed(self, data: bytes) -> list[OutputLine]:
        """The lines that are complete with `data`."""
        self._buffer += data
        lines: list[OutputLine] = []
        at = 0
        while len(self._buffer) - at >= _HEADER:
            number, length = struct.unpack_from(">BxxxL", self._buffer, at)
            end = at + _HEADER + length
            if len(self._buffer) < end:
                break
            if (stream := _STREAMS.get(number)) is not None:
                lines += self._take(stream, bytes(self._buffer[at + _HEADER : end]))
            at = end
        del self._buffer[:at]
        return lines

    def rest(self) -> list[OutputLine]:
        """The last line of each stream, where the sandbox ended without ending it."""
        return [
            line for stream, place in self._places.items() if place.pending for line in self._complete(place, stream)
        ]

    def _take(self, stream: Stream, frame: bytes) -> list[OutputLine]:
        stamp, content = _stamped(frame)
        place = self._places[stream]
        place.newest, place.nth = stamp, place.nth + 1 if stamp == place.newest else 1
        if (stamp, place.nth) <= (place.stamp, place.count):
            return []
        place.began = place.began if place.pending else stamp
        place.pending += content
        if content.endswith(b"\n") or len(place.pending) >= _LONGEST_HELD:
            return self._complete(place, stream)
        return []

    def _complete(self, place: _Place, stream: Stream) -> list[OutputLine]:
        lines = [OutputLine(place.began / _SECOND, stream, text) for text in cut_lines(bytes(place.pending))]
        place.pending.clear()
        place.stamp, place.count = place.newest, place.nth
        return lines


def _stamped(frame: bytes) -> tuple[int, bytes]:
    """Nanoseconds since 1970, and what follows the stamp."""
    text, _, content = frame.partition(b" ")
    return _nanoseconds(text.decode("ascii", "replace")), content


def _nanoseconds(text: str) -> int:
    """Of a time as RFC 3339 has it, with up to nine digits behind the point: Python's own stop at six."""
    whole, _, rest = text.partition(".")
    if not rest:
        return round(datetime.fromisoformat(whole).timestamp()) * _SECOND
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = rest[len(digits) :]
    return round(datetime.fromisoformat(whole + zone).timestamp()) * _SECOND + int(digits.ljust(9, "0")[:9])
