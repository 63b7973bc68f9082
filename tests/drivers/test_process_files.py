"""What the process driver keeps on disk, apart from the processes."""

from __future__ import annotations

from pathlib import Path

from cupola.drivers.process_files import SandboxFiles, last_lines


def test_the_last_lines_of_a_long_file(tmp_path: Path) -> None:
    """Only the end is read, lines stay whole, and a missing file is empty."""
    file = tmp_path / "log"
    file.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(file, 300)] == [str(number) for number in range(4700, 5000)]
    assert last_lines(file, 0) == []
    assert last_lines(tmp_path / "none", 5) == []
    file.write_bytes(b"no end \xff")
    assert last_lines(file, 5) == ["no end �"]


def test_uploads_of_a_killed_server_are_removed(tmp_path: Path) -> None:
    """What grew in `drafts` is nobody's when the next server begins."""
    files = SandboxFiles(tmp_path / "root")
    files.make_directories()
    (files.drafts / "half.upload").write_bytes(b"half")
    files.make_directories()
    assert list(files.drafts.iterdir()) == []
