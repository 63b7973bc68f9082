"""Output on disk: in order, each line once, within its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupola.runs import OutputLine, Stream
from cupola.sandboxes.kept import KeptOutput, Position

SHARE = 64 * 1024


@pytest.fixture
def kept(tmp_path: Path) -> KeptOutput:
    return KeptOutput(tmp_path, SHARE)


def lines(*texts: str, at: float = 1.5, stream: Stream = Stream.STDOUT) -> list[OutputLine]:
    return [OutputLine(at, stream, text) for text in texts]


def read_all(kept: KeptOutput, sandbox: str, position: Position | None = None) -> tuple[list[str], Position]:
    texts, position = list[str](), position or Position()
    while True:
        found, position = kept.read(sandbox, position)
        if not found:
            return texts, position
        texts += [line.text for line in found]


def test_what_was_kept_is_read(kept: KeptOutput) -> None:
    """With time and stream, whatever characters are in it; a reader goes on where it was."""
    odd = "a\x00b\u2028c\x85d \ufffd 'ä'\r\x1b[0m"
    kept.append("s1", lines("one", odd, at=1.25, stream=Stream.STDERR), "7")
    found, position = kept.read("s1", Position())
    assert found == [OutputLine(1.25, Stream.STDERR, "one"), OutputLine(1.25, Stream.STDERR, odd)]
    assert kept.read("s1", position) == ([], position)
    kept.append("s1", lines("two"), "8")
    assert read_all(kept, "s1", position)[0] == ["two"]
    assert kept.mark("s1") == "8"


def test_nothing_is_kept_of_an_unknown_sandbox(kept: KeptOutput) -> None:
    assert kept.mark("none") is None
    assert kept.read("none", Position()) == ([], Position())
    assert list(kept.read_back("none")) == []
    assert kept.size("none") == 0
    kept.delete("none")


def test_only_the_owner_reads_it(kept: KeptOutput, tmp_path: Path) -> None:
    """Files have mode 0600, directories 0700."""
    kept.append("s1", lines("one"), "1")
    (file,) = (tmp_path / "s1").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_share_is_not_exceeded(kept: KeptOutput) -> None:
    """A sandbox that writes much keeps its newest lines, within its share and a segment."""
    position = Position()
    for number in range(3000):
        kept.append("s1", lines(f"{number} {'x' * 100}"), str(number))
        assert kept.size("s1") <= SHARE * 9 / 8
        if number == 0:
            _, position = kept.read("s1", Position())
    texts, _ = read_all(kept, "s1")
    numbers = [int(text.split()[0]) for text in texts]
    assert numbers == list(range(numbers[0], 3000))
    assert len(numbers) > 200
    assert kept.size("s1") > SHARE / 2
    # A reader whose place is gone goes on with the oldest that is left.
    assert read_all(kept, "s1", position)[0] == texts


def test_the_sandboxes_of_a_session_share(kept: KeptOutput) -> None:
    """The oldest goes first, and its directory with its last segment; the newest keeps something in any case."""
    for sandbox in ("s1", "s2", "s3"):
        for number in range(250):
            kept.append(sandbox, lines(f"{number} {'x' * 100}"), str(number))
    assert kept.trim(["s1", "s2", "s3"]) == ["s2", "s3"]
    assert sum(map(kept.size, ("s1", "s2", "s3"))) <= SHARE
    assert sorted(kept.sandboxes()) == ["s2", "s3"]
    assert kept.trim(["s2", "none"]) == ["s2", "none"]


@pytest.mark.parametrize(
    "torn", [b'{"at":2.0,"stream":"stdout","te', b'{"at":2.0,"stream":"stdout","text":"x"}\n', b"\n\xff"]
)
def test_what_a_broken_write_has_left_is_taken_back(kept: KeptOutput, tmp_path: Path, torn: bytes) -> None:
    """Lines behind the last mark will be read from the driver again: they must not be there twice."""
    kept.append("s1", lines("one", "two"), "2")
    (file,) = (tmp_path / "s1").iterdir()
    with file.open("ab") as stream:
        stream.write(torn)
    assert kept.mark("s1") == "2"
    kept.append("s1", lines("three"), "3")
    assert read_all(kept, "s1")[0] == ["one", "two", "three"]


def test_a_new_segment_that_holds_no_mark_is_removed(kept: KeptOutput, tmp_path: Path) -> None:
    kept.append("s1", lines("one"), "1")
    (tmp_path / "s1" / "00000002.jsonl").write_bytes(b'{"at":')
    assert kept.mark("s1") == "1"
    assert len(list((tmp_path / "s1").iterdir())) == 1


def test_reading_back(tmp_path: Path) -> None:
    """From the end to the beginning, over segments and pieces, no line is missed and none is torn."""
    kept = KeptOutput(tmp_path, 4 * SHARE)
    written = []
    for number in range(400):
        text = f"{number} {'y' * (number % 97)}" if number % 50 else "z" * 5000
        written.append(text)
        kept.append("s1", lines(text), str(number))
    back = list(kept.read_back("s1"))
    assert [line.text for _, line in reversed(back)] == written
    position, line = back[123]
    assert kept.read("s1", position)[0][0] == line
    kept.append("s2", lines("q" * 200_000), "1")
    kept.append("s2", lines("end"), "2")
    assert [len(line.text) for _, line in kept.read_back("s2")] == [3, 200_000]
    assert [len(text) for text in read_all(kept, "s2")[0]] == [200_000, 3]
