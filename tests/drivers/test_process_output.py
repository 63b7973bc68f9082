"""The file that a process writes to, read and let go of."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cupola.drivers import process_output
from cupola.drivers.process_files import LONGEST_TAIL, last_lines
from cupola.drivers.process_output import Tail

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s1.log"
    path.touch()
    return path


@pytest.fixture
def tail(file: Path) -> Iterator[Tail]:
    with Tail(file, None) as opened:
        yield opened


def write(file: Path, text: str) -> None:
    """As a process does: each write at the end, wherever that is now."""
    with file.open("a") as stream:
        stream.write(text)


def read(tail: Tail, *, ended: bool = False) -> list[str]:
    texts = []
    while lines := tail.read(ended=ended):
        texts += [line.text for line in lines]
        tail.release()
    return texts


def on_disk(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_a_line_is_read_when_it_ends(file: Path, tail: Tail) -> None:
    write(file, "one\ntw")
    assert read(tail) == ["one"]
    write(file, "o\nthree")
    assert read(tail) == ["two"]
    assert read(tail, ended=True) == ["three"]
    assert read(tail, ended=True) == []


def test_the_time_of_a_line(file: Path, tail: Tail) -> None:
    """That of the last write and at most a tick, but not before the last look."""
    write(file, "one\n")
    os.utime(file, (1000, 1000))
    (line,) = tail.read(ended=False)
    assert 1000 <= line.at < 1001
    assert tail.read(ended=False) == []
    write(file, "two\n")
    os.utime(file, (2000, 2000))
    (line,) = tail.read(ended=False)
    assert line.at > 1_700_000_000


def test_no_line_comes_before_what_caused_it(file: Path) -> None:
    """A sandbox says that it starts and answers a request at once, with no look at its output in between.

    The clock that dates files lags behind the one that dates requests. Nothing is dated ahead of its reading either.
    """
    with file.open("ab", buffering=0) as process:
        for number in range(300):
            with Tail(file, None) as tail:
                process.write(b"starts\n")
                asked = time.time()
                process.write(b"%d\n" % number)
                answered = tail.read(ended=False)[-1]
                assert asked <= answered.at <= time.time()


def test_a_talker_does_not_fill_the_disk(file: Path, tail: Tail) -> None:
    """What was read is given back but for the last lines; a second reader goes on where the first one was."""
    for number in range(60):
        write(file, f"{number} {'x' * 1000}\n" * 200)
        assert len(read(tail)) == 200
    assert file.stat().st_size > 11 * MIB
    assert on_disk(file) < LONGEST_TAIL + 2 * MIB
    assert [line.split()[0] for line in last_lines(file, 3)] == ["59"] * 3
    write(file, "the end\n")
    with Tail(file, tail.position) as again:
        assert read(again) == ["the end"]
    with Tail(file, None) as from_what_is_left:
        assert from_what_is_left.position > 9 * MIB


def test_without_holes_the_file_is_cut(file: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system knows no holes; it goes on from the beginning, and nothing is lost."""
    monkeypatch.setattr(process_output, "_punch", lambda *_: False)
    written, got = [], []
    for number in range(100):
        text = f"{number} {'x' * 1000}"
        write(file, f"{text}\n" * 300)
        written += [text] * 300
        got += read(tail)
    assert got == written
    assert file.stat().st_size < 17 * MIB
    with Tail(file, 100 * MIB) as after_a_restart:
        assert after_a_restart.read(ended=False) != []
