"""Sessions: the lasting unit of isolation, compute and files, and when they go idle or expire.

A session outlives its sandboxes. What is wanted and what was last seen are stored apart; the wire's status is
derived (`Session.status`). Every decision is a pure function of the session and the time.
Source: control-plane.md §2.5, design.md §5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

from cupola.agents import Failure
from cupola.errors import BadRequest, Forbidden

LIFETIME = 30 * 24 * 3600
"""Seconds after the last access at which a session expires with its files (control-plane.md §3)."""


MAX_SESSION_ID = 128
_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SESSION_ID}}}\Z")


class Desired(StrEnum):
    """What is wanted of a session's sandbox."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Observed(StrEnum):
    """What was last seen of a sandbox."""

    NONE = "none"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class SessionStatus(StrEnum):
    CREATING = "creating"
    ACTIVE = "active"
    IDLE = "idle"
    FAILED = "failed"
    DELETING = "deleting"
    DELETED = "deleted"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Session:
    """One session of one agent, on one version until somebody moves it (`moves.py`). Times are unix seconds.

    `home` names its lasting files; a session that adopts a warm sandbox takes over that sandbox's home.
    `caller` is the isolation key of who made it. `used_seconds` is how long its sandboxes have run in all and
    `used_cpu_seconds` how much of the processors they have used, as far as that was counted yet (`sandboxes/usage`).
    """

    project: str
    agent: str
    id: str
    guid: str
    version: str
    caller: str
    home: str
    created_at: float
    last_accessed_at: float
    stopped_at: float | None = None
    desired: Desired = Desired.RUNNING
    observed: Observed = Observed.NONE
    failure: Failure | None = None
    used_seconds: float = 0.0
    used_cpu_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.project, self.agent, self.id)

    @property
    def expires_at(self) -> float:
        return self.last_accessed_at + LIFETIME

    def status(self, now: float) -> SessionStatus:
        if self.desired is Desired.DELETED:
            return SessionStatus.DELETING
        if now >= self.expires_at:
            return SessionStatus.EXPIRED
        if self.observed is Observed.READY:
            return SessionStatus.ACTIVE
        if self.observed is Observed.FAILED:
            return SessionStatus.FAILED
        if self.observed is Observed.STARTING:
            return SessionStatus.CREATING
        return SessionStatus.IDLE if self.stopped_at is not None else SessionStatus.CREATING

    def to_starting(self, now: float) -> Self:
        return replace(self.to_accessed(now), desired=Desired.RUNNING, observed=Observed.STARTING, failure=None)

    def to_ready(self, now: float) -> Self:
        return replace(self.to_accessed(now), observed=Observed.READY, failure=None)

    def to_failed(self, failure: Failure) -> Self:
        return replace(self, observed=Observed.FAILED, failure=failure)

    def to_idle(self, now: float) -> Self:
        return replace(self, desired=Desired.STOPPED, observed=Observed.NONE, stopped_at=now)

    def to_deleted(self) -> Self:
        return replace(self, desired=Desired.DELETED)

    def to_version(self, version: str, now: float) -> Self:
        """On another version, with its home; what failed on the old one may work on the new."""
        if self.observed is not Observed.FAILED:
            return replace(self, version=version)
        return replace(self, version=version, failure=None).to_idle(now)

    def to_used(self, seconds: float, cpu_seconds: float) -> Self:
        """With so much more on its account."""
        return replace(
            self,
            used_seconds=self.used_seconds + seconds,
            used_cpu_seconds=self.used_cpu_seconds + cpu_seconds,
        )

    def to_accessed(self, now: float) -> Self:
        return replace(self, last_accessed_at=max(now, self.last_accessed_at))


class Invocation(NamedTuple):
    """Which session serves a call by the invocations protocol, and the isolation key of who made it.

    A plain tuple: one is made for every request.
    """

    project: str
    agent: str
    id: str
    session: str
    user: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The row of one sandbox: what must be known to adopt it or to undo it after a crash.

    `handle` is the driver's own JSON (`drivers.base.Handle`), None before anything was made. `session` is None while
    the sandbox is warm; `session_id` is the id that it was started with and that the session adopting it takes, empty
    in one that is bound late: it takes the id of whatever session adopts it. `used_cpu_seconds` is how much of its
    processor time stands on its session's account already.
    """

    id: str
    project: str
    agent: str
    version: str
    driver: str
    session_id: str
    session_guid: str
    home: str
    created_at: float
    session: str | None = None
    handle: Mapping[str, Any] | None = None
    observed: Observed = Observed.STARTING
    used_cpu_seconds: float = 0.0

    @property
    def is_bound_late(self) -> bool:
        """Whether it waits for a session whose id it does not know yet."""
        return not self.session_id

    def to_adopted(self, session: Session) -> Self:
        return replace(self, session=session.id, session_id=session.id, session_guid=session.guid)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a sandbox is doing now. `last` is when something of it last ended or began, in unix seconds."""

    open_requests: int = 0
    background_responses: int = 0
    last: float = 0.0


def is_idle(activity: Activity, idle_timeout: float, now: float) -> bool:
    """Whether a sandbox may be stopped: nothing open, nothing running in the background, quiet for the time-out.

    Open requests count whether they are plain, streamed or WebSockets. Probes, readers of logs and files, and what the
    platform asks a container by itself are no activity: they are not counted in `Activity` in the first place.
    """
    if activity.open_requests or activity.background_responses:
        return False
    return now - activity.last >= idle_timeout


def is_session_id(session_id: str) -> bool:
    """Whether it is 1 to 128 ASCII letters, digits, hyphens and underscores."""
    return _ID.fullmatch(session_id) is not None


def what_is_open(activity: Activity, *, starting: bool) -> str | None:
    """In words, what would be broken off by stopping a session now; None when it is nothing."""
    counted = [(activity.open_requests, "open request"), (activity.background_responses, "running background response")]
    named = ["a start under way"] if starting else []
    named += [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counted if count]
    return " and ".join(named) or None


def check_session_id(session_id: str) -> None:
    """Raises BadRequest for what cannot be the id of a session."""
    if not is_session_id(session_id):
        raise BadRequest(
            f"The session id must be 1 to {MAX_SESSION_ID} ASCII letters, digits, hyphens and underscores.",
            param="agent_session_id",
        )


def check_owner(session: Session, caller: str) -> None:
    """Raises Forbidden for a session of another caller."""
    if session.caller != caller:
        raise Forbidden(
            f"Session '{session.id}' belongs to another caller.",
            code="session_not_accessible",
            param="agent_session_id",
        )
