"""How many sessions may run at once, and how long one may: pure decisions about numbers that others count.

A session counts while its sandbox runs, starts or stops; one that sleeps costs nothing and counts nowhere. Beyond a
limit somebody whose sandbox rests makes room; where nobody does, the newcomer is told the numbers.
Settings and metadata keys: docs/sessions.md, "Limits and budgets".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cupola.agents import AgentVersion
from cupola.errors import BadRequest, QuotaExceeded
from cupola.secrecy import brief
from cupola.sessions import Session

SESSION_MAX_SECONDS = "session_max_seconds"
SESSION_MAX_CPU_SECONDS = "session_max_cpu_seconds"
BUDGET_KEYS = (SESSION_MAX_SECONDS, SESSION_MAX_CPU_SECONDS)
"""Keys of a version's metadata that set the budget of each of its sessions."""

MOST_SECONDS = 10 * 366 * 24 * 3600
"""Ten years: more is a slip of the keyboard."""


class Scope(StrEnum):
    """Among whose sessions a limit counts, narrowest first."""

    CALLER = "caller"
    AGENT = "agent"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Limits:
    """The most sessions that may run at once; 0 for no limit. `caller` counts within a project."""

    project: int = 0
    agent: int = 0
    caller: int = 0

    def of(self, scope: Scope) -> int:
        return {Scope.CALLER: self.caller, Scope.AGENT: self.agent, Scope.PROJECT: self.project}[scope]

    @property
    def none(self) -> bool:
        return not (self.project or self.agent or self.caller)


class Doing(StrEnum):
    """What the sandbox of a session does: only one that rests may be stopped for somebody else."""

    BUSY = "busy"
    RESTING = "resting"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose session it is, or will be; `caller` is the isolation key."""

    project: str
    agent: str
    caller: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A session with a sandbox, known by its `id` within its agent. `last` is when that was last used."""

    owner: Owner
    id: str = ""
    doing: Doing = Doing.BUSY
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Full:
    """A limit that is reached, and which holder makes room: None when all of them are busy."""

    scope: Scope
    limit: int
    running: int
    makes_room: Holder | None = None


def first_full(limits: Limits, newcomer: Owner, holders: Sequence[Holder]) -> Full | None:
    """The narrowest limit that one more session would break; None when there is room.

    Who makes room: a session that is being stopped already, else the newcomer's caller's own that has rested longest,
    else anybody's in that scope. Within the limit of a caller these are its own in any case.
    """
    for scope in Scope:
        limit = limits.of(scope)
        inside = [holder for holder in holders if _shares(scope, newcomer, holder.owner)]
        if limit and len(inside) >= limit:
            return Full(scope, limit, len(inside), _makes_room(newcomer, inside))
    return None


def _shares(scope: Scope, one: Owner, other: Owner) -> bool:
    if one.project != other.project:
        return False
    if scope is Scope.AGENT:
        return one.agent == other.agent
    return scope is Scope.PROJECT or one.caller == other.caller


def _makes_room(newcomer: Owner, inside: Iterable[Holder]) -> Holder | None:
    willing = [holder for holder in inside if holder.doing is not Doing.BUSY]
    return min(
        willing,
        key=lambda h: (h.doing is not Doing.LEAVING, h.owner.caller != newcomer.caller, h.last),
        default=None,
    )


def refusal(full: Full, newcomer: Owner) -> QuotaExceeded:
    """The 429 of a session that finds no room, with the numbers."""
    whose = {
        Scope.CALLER: f"you may run in project '{newcomer.project}'",
        Scope.AGENT: f"agent '{newcomer.agent}' may run",
        Scope.PROJECT: f"project '{newcomer.project}' may run",
    }[full.scope]
    return QuotaExceeded(
        f"All {full.limit} sessions that {whose} at once are busy ({full.running} running). Try again when one is "
        f"free, stop or delete a session, or let an operator raise CUPOLA_MAX_SESSIONS_PER_{full.scope.upper()}.",
        extra={"scope": full.scope.value, "limit": full.limit, "running": full.running},
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """What one session may use in all, over all its sandboxes; 0 for no limit."""

    seconds: float = 0
    cpu_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget that is used up: which one, how much it was, and what was used."""

    key: str
    limit: float
    used: float


def budget_of(version: AgentVersion, default: Budget) -> Budget:
    """What a version's metadata says wins over the default, for each of the two by itself."""
    return Budget(
        _own(version.metadata, SESSION_MAX_SECONDS, default.seconds),
        _own(version.metadata, SESSION_MAX_CPU_SECONDS, default.cpu_seconds),
    )


def _own(metadata: Mapping[str, str], key: str, default: float) -> float:
    return default if key not in metadata else read_seconds(metadata[key]) or 0


def read_seconds(text: str) -> float | None:
    """The seconds that a metadata value says; None when it says none."""
    plain = text.strip()
    if not plain.isascii() or not plain.replace(".", "", 1).isdigit() or len(plain) > 20:
        return None
    seconds = float(plain)
    return seconds if seconds <= MOST_SECONDS else None


def check_budget_keys(metadata: Mapping[str, str]) -> None:
    """Raises BadRequest naming the key whose value is no number of seconds."""
    for key in BUDGET_KEYS:
        if key in metadata and read_seconds(metadata[key]) is None:
            raise BadRequest(
                f"The metadata value '{key}' is {brief(metadata[key])}; it must be a number of seconds such as "
                f"'3600', at most {MOST_SECONDS}, or '0' for no limit.",
                param=f"metadata.{key}",
            )


def spent(session: Session, budget: Budget) -> Spent | None:
    """The budget that a session has used up, if any."""
    if budget.seconds and session.used_seconds >= budget.seconds:
        return Spent(SESSION_MAX_SECONDS, budget.seconds, session.used_seconds)
    if budget.cpu_seconds and session.used_cpu_seconds >= budget.cpu_seconds:
        return Spent(SESSION_MAX_CPU_SECONDS, budget.cpu_seconds, session.used_cpu_seconds)
    return None


def over_budget(session: Session, over: Spent) -> QuotaExceeded:
    """The 429 of a session that has used up its budget; its sentence also ends what was running."""
    what = "seconds of running" if over.key == SESSION_MAX_SECONDS else "seconds of processor time"
    extra: dict[str, Any] = {
        "scope": "session",
        "agent_session_id": session.id,
        "budget": over.key,
        "limit": over.limit,
        "used": round(over.used, 3),
    }
    return QuotaExceeded(
        f"Session '{session.id}' has used {over.used:.1f} of the {over.limit:g} {what} that it may ({over.key}). "
        f"Begin a new session, fork this one, or raise the budget: the metadata key '{over.key}' of a new version, "
        f"or CUPOLA_{over.key.upper()}. Its files are kept.",
        extra=extra,
    )
