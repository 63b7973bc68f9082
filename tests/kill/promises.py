"""What clients were told, and so may count on: the model that a platform is held to after a kill.

An answer that was heard is a promise. A request that was broken off promises nothing: what it asked for may have
happened or not, and is `open` until it is asked for again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum


class Is(StrEnum):
    THERE = "there"
    OPEN = "open"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Session:
    """`kept` names what was said to have been written to its home, `erased` what was said to have been deleted there.

    `busy` counts requests that are under way; while it is `held`, nobody begins another. `version` is what it was moved
    to, where that is known.
    """

    agent: str
    id: str
    state: Is = Is.THERE
    kept: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    version: str | None = None
    busy: int = 0
    held: bool = False


@dataclass(slots=True, eq=False)
class Talk:
    """A conversation; `heard` are the texts of its finished responses."""

    id: str
    agent: str
    session: Session | None = None
    heard: list[str] = field(default_factory=list)
    busy: int = 0

    @property
    def is_unbound(self) -> bool:
        """Whether it is not known which session it has: the platform may know one whose answer was not heard."""
        return self.session is None or self.session.state is not Is.THERE


@dataclass(slots=True, eq=False)
class Version:
    agent: str
    name: str
    state: Is = Is.THERE


@dataclass(slots=True, eq=False)
class Snap:
    """A snapshot, and what its session had kept when it was asked for."""

    session: Session
    id: str
    kept: frozenset[str]
    state: Is = Is.THERE


@dataclass(slots=True)
class Promises:
    """Everything that has been promised and not been taken back. `responses` maps ids to final status and text."""

    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    talks: dict[str, Talk] = field(default_factory=dict)
    versions: dict[tuple[str, str], Version] = field(default_factory=dict)
    snapshots: dict[str, Snap] = field(default_factory=dict)
    responses: dict[str, tuple[str, str]] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    """Responses that were shown to be in progress: in the background, or in a stream that broke off."""
    deletions: int = 0
    """Of sessions, under way: who asks for one meanwhile may rightly begin it anew."""

    def session(self, agent: str, id: str) -> Session:
        """The session that an answer named."""
        return self.sessions.setdefault((agent, id), Session(agent, id))

    def there(self) -> list[Session]:
        return [session for session in self.sessions.values() if session.state is Is.THERE]

    @contextmanager
    def deleting(self) -> Iterator[None]:
        self.deletions += 1
        try:
            yield
        finally:
            self.deletions -= 1

    @property
    def may_delete(self) -> bool:
        """No request is under way to a session that nobody here knows."""
        return not any(talk.busy and talk.is_unbound for talk in self.talks.values())

    def rested(self, dice: random.Random, sessions: Iterable[Session] | None = None) -> Session | None:
        """A session that nobody is asking for anything."""
        found = [one for one in (self.there() if sessions is None else sessions) if not one.busy and not one.held]
        return dice.choice(found) if found else None

    def snapshots_of(self, session: Session) -> list[Snap]:
        """Those that are there."""
        return [snap for snap in self.snapshots.values() if snap.session is session and snap.state is Is.THERE]

    def to(self, state: Is, session: Session) -> None:
        """A session, and its snapshots with it."""
        session.state = state
        for snap in self.snapshots.values():
            if snap.session is session and snap.state is not Is.GONE:
                snap.state = state
