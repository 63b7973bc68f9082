"""Snapshots: copies of a session's home, kept for as long as somebody wants to go back to them.

A row is written before the first byte is copied, and says at any time what becomes of its home after a crash: what is
`ready` stays, the home of every other row is nobody's and is removed. Restores and forks copy into a home that has such
a row too, until a session owns it; the row then names the home that the session has left, or goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from cupola.errors import BadRequest

MAX_NOTE = 512
"""Characters of a note: a sentence, not a place to keep things."""


class SnapshotState(StrEnum):
    """What a row says of its home: being copied for a snapshot, a snapshot, or nobody's."""

    MAKING = "making"
    READY = "ready"
    SPARE = "spare"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One copy of a home. `version` and `caller` are those of its session then, `size` the bytes of its files."""

    project: str
    agent: str
    session: str
    id: str
    version: str
    caller: str
    driver: str
    home: str
    created_at: float
    note: str | None = None
    size: int = 0
    state: SnapshotState = SnapshotState.MAKING

    @property
    def session_key(self) -> tuple[str, str, str]:
        return (self.project, self.agent, self.session)

    def to_ready(self, size: int) -> Self:
        return replace(self, state=SnapshotState.READY, size=size)

    def to_spare(self, home: str | None = None) -> Self:
        """Its home is nobody's (any more); with `home`, that one is, and this one has found its owner."""
        return replace(self, state=SnapshotState.SPARE, home=home or self.home)


def check_note(note: str | None) -> None:
    """Raises BadRequest for a note that is too long to be one."""
    if note is not None and len(note) > MAX_NOTE:
        raise BadRequest(f"'note' has {len(note)} characters; {MAX_NOTE} are the most.", param="note")
