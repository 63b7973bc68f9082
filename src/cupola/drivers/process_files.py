"""What the process driver keeps on disk: homes, output, and one small record per sandbox.

A record is written before its process starts and removed after its last process has ended; so whatever a
killed server has left behind is known to the next. Left out is what the processes do: `process_tree`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cupola.errors import DriverUnavailable

LONGEST_TAIL = 1 << 20
"""Bytes of output that are looked at for the last lines, however long those are."""


@dataclass(frozen=True, slots=True)
class Record:
    """The file about one sandbox. `process` is `pid:start time`, which no later process can have again.

    `parent` is the prepared parent that it was forked from, `warning` what people should know about the start.
    """

    sandbox_id: str
    labels: Mapping[str, str]
    port: int
    boxed: bool
    groups: tuple[str, ...]
    process: str | None = None
    ended: bool = False
    exit_code: int | None = None
    out_of_memory: bool = False
    parent: str | None = None
    warning: str | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return int(self.process.partition(":")[0])

    @property
    def group_paths(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.groups))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "groups": tuple(row["groups"])})


class SandboxFiles:
    """The directories below `root`, and what lies where in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filing = threading.Lock()

    def make_directories(self) -> None:
        """Removes uploads that a killed server has left, too. Raises `DriverUnavailable` where it cannot write."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for name in ("homes", "drafts", "output", "sandboxes"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
            for left in self.drafts.iterdir():
                left.unlink(missing_ok=True)
        except OSError as error:
            raise DriverUnavailable(f"The state directory {self.root} cannot be written: {error}.") from error

    def home(self, home: str) -> Path:
        """A session's home; as with every name here, `ValueError` when it is no plain one."""
        return self.root / "homes" / _plain(home)

    @property
    def drafts(self) -> Path:
        """Where uploads grow before they become files of a home, on the same file system."""
        return self.root / "drafts"

    def output(self, sandbox_id: str) -> Path:
        """Where a sandbox writes to."""
        return self.root / "output" / f"{_plain(sandbox_id)}.log"

    def file(self, sandbox_id: str) -> Path:
        """Where the record of a sandbox lies."""
        return self.root / "sandboxes" / f"{_plain(sandbox_id)}.json"

    def read(self, sandbox_id: str) -> Record | None:
        """The record of a sandbox; None when there never was one, or it was stopped."""
        try:
            return Record.from_json(json.loads(self.file(sandbox_id).read_bytes()))
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> None:
        """Keeps a record in place of the one before: whoever reads sees the one or the other, whole."""
        file = self.file(record.sandbox_id)
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(file)

    def write_end(self, record: Record) -> None:
        """As `write`, unless the sandbox was stopped meanwhile: a record that was removed stays away."""
        with self._filing, contextlib.suppress(OSError):
            if self.file(record.sandbox_id).exists():
                self.write(record)

    def ending(self, sandbox_id: str) -> Path:
        """Where the main process of a forked sandbox, which is no child of ours, notes the agent's exit code."""
        return self.root / "sandboxes" / f"{_plain(sandbox_id)}.ending"

    def read_ending(self, sandbox_id: str) -> int | None:
        """What it noted; None when it was killed before."""
        try:
            return int(self.ending(sandbox_id).read_bytes() or b"none")
        except (FileNotFoundError, ValueError):
            return None

    def remove(self, sandbox_id: str) -> None:
        """Removes a sandbox's output and record, if there are any; the home stays."""
        self.output(sandbox_id).unlink(missing_ok=True)
        with self._filing:
            self.file(sandbox_id).unlink(missing_ok=True)
            self.ending(sandbox_id).unlink(missing_ok=True)

    def known(self) -> Sequence[str]:
        """The ids of all sandboxes that have a record."""
        return sorted(file.stem for file in (self.root / "sandboxes").glob("*.json"))

    def make_home(self, home: str) -> None:
        """Makes a session's home, unless it is there."""
        self.home(home).mkdir(mode=0o700, exist_ok=True)

    def all(self) -> Sequence[Record]:
        """The records of all sandboxes."""
        return [record for record in map(self.read, self.known()) if record is not None]

    def remove_home(self, home: str) -> None:
        """Removes a session's files, if there are any."""
        _remove_tree(self.home(home))


def last_lines(file: Path, count: int) -> Sequence[str]:
    """The last `count` lines of a file, read from its end."""
    if count <= 0:
        return []
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            size = 0
            text = b""
            while size < min(end, LONGEST_TAIL) and text.count(b"\n") <= count:
                size = min(end, LONGEST_TAIL, max(8192, size * 4))
                stream.seek(end - size)
                text = stream.read(size)
    except FileNotFoundError:
        return []
    return text.decode(errors="replace").splitlines()[-count:]


def _plain(name: str) -> str:
    """`name`, if it is one path component: names of homes and sandboxes become files."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a directory")
    return name


def _remove_tree(directory: Path) -> None:
    """Removes a directory of which the agent may have taken our right to write."""

    def allow(function: Callable[..., Any], path: str, error: object) -> None:
        parent = Path(path).parent
        with contextlib.suppress(OSError):
            parent.chmod(0o700)
            Path(path).chmod(0o700)
        with contextlib.suppress(FileNotFoundError):
            function(path)

    if directory.is_dir():
        shutil.rmtree(directory, onerror=allow)
