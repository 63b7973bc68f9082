"""The frames of an engine's log: lines, times, and where to go on."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from cupola.drivers.docker_output import LogReader
from cupola.runs import OutputLine, Stream

OUT, ERR = 1, 2


def frame(stream: int, stamp: str, content: str | bytes) -> bytes:
    body = stamp.encode() + b" " + (content.encode() if isinstance(content, str) else content)
    return struct.pack(">BxxxL", stream, len(body)) + body


def second(number: int, nanoseconds: int = 0) -> str:
    return f"2023-11-14T22:13:{20 + number:02}.{nanoseconds:09}Z"


LOG = [
    frame(OUT, second(0), "one\n"),
    frame(ERR, second(0, 5), "complaint\r\n"),
    frame(OUT, second(1, 120_000_000), "a long "),  # a line in three frames of one stamp, as Docker has it
    frame(OUT, second(1, 120_000_000), "li"),
    frame(ERR, second(1), "another\n"),
    frame(OUT, second(1, 120_000_000), "ne\n"),
    frame(OUT, second(2), "same\n"),  # lines of one stamp, as Podman has them
    frame(OUT, second(2), "stamp\n"),
    frame(OUT, "2023-11-14T23:13:23.5+01:00", b"bytes \xff\n"),
    frame(OUT, second(4), "no end"),
]
LINES = [
    OutputLine(1_700_000_000.0, Stream.STDOUT, "one"),
    OutputLine(1_700_000_000.000000005, Stream.STDERR, "complaint"),
    OutputLine(1_700_000_001.0, Stream.STDERR, "another"),
    OutputLine(1_700_000_001.12, Stream.STDOUT, "a long line"),
    OutputLine(1_700_000_002.0, Stream.STDOUT, "same"),
    OutputLine(1_700_000_002.0, Stream.STDOUT, "stamp"),
    OutputLine(1_700_000_003.5, Stream.STDOUT, "bytes \ufffd"),
]


def test_frames_become_lines() -> None:
    """Each stream for itself; a last line without end comes when the sandbox has ended."""
    reader = LogReader(None)
    assert reader.feed(b"".join(LOG)) == LINES
    assert reader.rest() == [OutputLine(1_700_000_004.0, Stream.STDOUT, "no end")]
    assert reader.rest() == []


@given(st.integers(1, 40))
def test_pieces_may_be_of_any_size(size: int) -> None:
    data, reader = b"".join(LOG), LogReader(None)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [line for piece in pieces for line in reader.feed(piece)] == LINES


@given(st.integers(0, len(LOG)))
def test_each_line_comes_once_wherever_it_broke_off(broken_at: int) -> None:
    """The log is read again from the mark on; what was read is passed over, what was begun is not lost."""
    first = LogReader(None)
    got = first.feed(b"".join(LOG[:broken_at]))
    second_reader = LogReader(first.mark)
    got += second_reader.feed(b"".join(LOG))
    assert sorted(got, key=lambda line: line.at) == LINES


def test_what_is_asked_for() -> None:
    """From a little before the newest line that is known: streams may have changed places."""
    reader = LogReader(None)
    assert reader.query["since"] == 0
    reader.feed(b"".join(LOG))
    assert LogReader(reader.mark).query["since"] == 1_700_000_003 - 2


def test_a_line_that_never_ends_is_not_held_for_ever() -> None:
    """It comes in pieces after a megabyte."""
    reader = LogReader(None)
    pieces = [reader.feed(frame(OUT, second(0, number), "x" * 16_000)) for number in range(100)]
    assert sum(len(line.text) for lines in pieces for line in lines) >= 1024 * 1024
