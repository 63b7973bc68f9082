"""Paths of a session's files, and what stands at them: the words in which every driver speaks of a home.

A path is always one below the session's home. It is never resolved: what could lead out of the home is refused here,
by its text, and what only the file system knows (links, devices) is refused where it is opened.
Source: control-plane.md §2.6.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cupola.errors import BadRequest, Conflict, NotFound, SetupError
from cupola.secrecy import brief

HOME = "/home/session"
"""What agents in containers see as their home (container-contract.md §1), and hence write down in their answers."""

LONGEST_NAME = 255
LONGEST_PATH = 4096
"""Bytes, as the usual file systems have it."""


@dataclass(frozen=True, slots=True)
class HomePath:
    """The parts of a path below a home; the home itself has none."""

    parts: tuple[str, ...] = ()

    @property
    def is_home(self) -> bool:
        return not self.parts

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else "."

    @property
    def parent(self) -> HomePath:
        return HomePath(self.parts[:-1])

    def child(self, name: str) -> HomePath:
        return HomePath((*self.parts, name))

    def __str__(self) -> str:
        return "/".join(self.parts) or "."


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or other thing in a home. `size` is in bytes, 0 for directories; `modified` in unix seconds.

    `mode` is the permission bits. A name that is no UTF-8 shows the bytes in question as `\\xff`.
    """

    path: HomePath
    is_directory: bool
    size: int
    modified: float
    mode: int


def read_path(text: str) -> HomePath:
    """The path that a caller means: `a/b`, `/a/b`, `~/a/b` and `/home/session/a/b` are the same.

    Raises BadRequest for what no file of a home can be called, `..` foremost: it is refused, not resolved.
    """
    if text == HOME or text.startswith(f"{HOME}/"):
        text = text.removeprefix(HOME)
    elif text == "~" or text.startswith("~/"):
        text = text[1:]
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _bad(text, "it has '..' in it; name the file from the session's home on")
    for part in parts:
        _check(text, part)
    if len("/".join(parts).encode()) > LONGEST_PATH:
        raise _bad(text, f"it is longer than {LONGEST_PATH} bytes")
    return HomePath(parts)


def _check(text: str, part: str) -> None:
    if "\0" in part:
        raise _bad(text, "it has a NUL character in it")
    if "\\" in part:
        raise _bad(text, "it has a backslash in it; directories are parted by '/'")
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        raise _bad(text, "it is not valid Unicode") from None
    if length > LONGEST_NAME:
        raise _bad(text, f"one of its names is longer than {LONGEST_NAME} bytes")


def _bad(text: str, why: str) -> BadRequest:
    shown = brief(text.encode(errors="replace").decode())
    return BadRequest(f"'path' is {shown}: {why}.", param="path")


# What the state of a home forbids, said alike by every driver


def missing(path: HomePath) -> NotFound:
    return NotFound(f"The session has no file or directory {_shown(path)}.", param="path")


def is_a_directory(path: HomePath) -> Conflict:
    return Conflict(f"{_shown(path)} is a directory, and a file is meant here: name one in it.", param="path")


def no_directory(path: HomePath, kind: str = "a file") -> Conflict:
    """`kind` is what stands where a directory is needed."""
    return Conflict(f"{_shown(path)} is {kind}, and a directory is meant here.{_about(kind)}", param="path")


def no_file(path: HomePath, kind: str) -> Conflict:
    """`kind` is what stands where a file is to be read."""
    return Conflict(f"{_shown(path)} is {kind}, which cannot be read here.{_about(kind)}", param="path")


def not_empty(path: HomePath) -> Conflict:
    return Conflict(f"The directory {_shown(path)} is not empty: delete it with recursive=true.", param="path")


def is_the_home() -> BadRequest:
    return BadRequest("The home itself is not deleted: name something in it, or delete the session.", param="path")


def too_deep(path: HomePath) -> Conflict:
    return Conflict(
        f"{_shown(path)} has too many directories within each other: delete the inner ones first.", param="path"
    )


def cut_short(path: HomePath) -> Conflict:
    return Conflict(f"{_shown(path)} was cut short while it was read: read it again.", param="path")


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the file system says when nothing more can be written."""


@contextmanager
def room_explained() -> Iterator[None]:
    """A full disk becomes an error of ours; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room() from error
        raise


def no_room() -> SetupError:
    return SetupError(
        "No space is left on the disk that holds the files of sessions; make room there, and try again.",
        code="storage_full",
    )


LINK = "a symbolic link"


def _about(kind: str) -> str:
    return " Links are not followed: name what it points to." if kind == LINK else ""


def _shown(path: HomePath) -> str:
    return brief(str(path))
