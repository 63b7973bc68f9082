"""How long requests took, split as Foundry splits it: values and arithmetic, no clocks of its own.

A request is measured from the outermost edge to the head of its reply. Until it is forwarded it waits for the
platform and, if its session had no sandbox, for the two parts of a start: making the sandbox (`infra_setup`) and its
way to the first 200 (`readiness`). What it waits after that is the container's. The four parts add up to the whole.
Foundry's documents define the names, and that a request whose sandbox runs is a warm one (docs/wire-notes.md).

All instants are seconds of one monotonic clock, but for `Timing.began_at`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import ceil
from typing import NamedTuple

CALLER_LEFT = 499
"""The status of a request whose caller left before the head of a reply, as proxies log it."""


class SessionStart(StrEnum):
    """How a session came by a sandbox, in Foundry's words (`x-ms-debug-latency-session-start-type`).

    Of a request: what it made its session do. `warm` is a sandbox that was there, waiting for a session or serving it.
    """

    COLD = "cold"
    WARM = "warm"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Start:
    """How one sandbox came up: `began` to be made, `started` to run, and was `ready`, or was given up then."""

    type: SessionStart
    began: float
    started: float
    ready: float


class Split(NamedTuple):
    """The parts of one request's time until the head of its reply, in seconds. A plain tuple, as `Timing` is."""

    type: SessionStart
    preprocessing: float
    infra_setup: float
    readiness: float
    response: float

    @property
    def whole(self) -> float:
        return self.preprocessing + self.infra_setup + self.readiness + self.response

    def milliseconds(self) -> tuple[int, int, int, int, int]:
        """The four parts and the whole as whole numbers that add up: each boundary is rounded, not each part."""
        ends, end = [0], 0.0
        for part in (self.preprocessing, self.infra_setup, self.readiness, self.response):
            end += part
            ends.append(round(end * 1000))
        pre, infra, ready, response = (after - before for before, after in pairwise(ends))
        return pre, infra, ready, response, ends[-1]


def split(began: float, forwarded: float | None, head: float, start: Start | None) -> Split:
    """Parts the time from `began` to `head`; `start` is that of the sandbox that serves, or that did not come up.

    Only what this request waited of a start counts: one that came while it was under way waited for the rest of it, and
    one that came after it is warm. A request that was never `forwarded` has no response time.
    """
    until = head if forwarded is None else forwarded
    if start is None or start.ready <= began:
        return Split(SessionStart.WARM, until - began, 0.0, 0.0, head - until)
    infra = _overlap(began, until, start.began, start.started)
    ready = _overlap(began, until, start.started, start.ready)
    return Split(start.type, max(until - began - infra - ready, 0.0), infra, ready, head - until)


def _overlap(begin: float, end: float, other_begin: float, other_end: float) -> float:
    return max(min(end, other_end) - max(begin, other_begin), 0.0)


class Timing(NamedTuple):
    """One request as it is kept. `began_at` is in unix seconds, all else in milliseconds.

    `version` and `session` are empty where the request did not get as far; `last_byte_ms` is the time to its very end.
    `subject` is the response or invocation that came of it, of a request that asked for its split.
    A plain tuple: one is made for every request.
    """

    project: str
    agent: str
    version: str
    session: str
    request_id: str
    protocol: str
    start_type: SessionStart
    status: int
    began_at: float
    preprocessing_ms: float
    infra_setup_ms: float
    readiness_ms: float
    response_ms: float
    response_begin_ms: float
    last_byte_ms: float
    subject: str | None = None

    @property
    def split(self) -> Split:
        parts = (self.preprocessing_ms, self.infra_setup_ms, self.readiness_ms, self.response_ms)
        return Split(self.start_type, *(part / 1000 for part in parts))

    @property
    def is_error(self) -> bool:
        return self.status >= 400


PARTS = ("preprocessing_ms", "infra_setup_ms", "readiness_ms", "response_ms")
"""What `response_begin_ms` is made of."""
WHOLES = ("response_begin_ms", "last_byte_ms")


class Stopwatch:
    """Takes down when things happen to one request; in the scope as `cupola.stopwatch`.

    Nothing is kept of a request that never `asks` an agent. One that is `detached` is answered before it is done: what
    its container takes is not in its reply's head. `then` is the timing of the request whose work this one looks at.
    """

    __slots__ = (
        "agent",
        "began",
        "detached",
        "forwarded",
        "head",
        "project",
        "protocol",
        "session",
        "start",
        "status",
        "subject",
        "then",
        "version",
    )

    def __init__(self, began: float) -> None:
        self.began = began
        self.project = self.agent = self.protocol = ""
        self.version = self.session = ""
        self.start: Start | None = None
        self.forwarded: float | None = None
        self.head: float | None = None
        self.status = 0
        self.detached = False
        self.subject: str | None = None
        self.then: Timing | None = None

    def asks(self, project: str, agent: str, protocol: str) -> None:
        """The request is one for this agent. A protocol that is carried by another is named first, and stays."""
        self.project, self.agent, self.protocol = project, agent, self.protocol or protocol

    def forwards(self, now: float, version: str, session: str, start: Start | None) -> None:
        """The request goes to a sandbox; to another one, if the first was dead."""
        self.forwarded, self.version, self.session, self.start = now, version, session, start

    def split(self, head: float) -> Split:
        return split(self.began, self.forwarded, head, self.start)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """By nearest rank: the least measured value that no less than so many per cent of all are at or below."""

    p50: float
    p90: float
    p99: float


def percentiles(values: Iterable[float]) -> Percentiles:
    """Of at least one value."""
    ordered = sorted(values)
    return Percentiles(*(ordered[max(ceil(len(ordered) * percent / 100), 1) - 1] for percent in (50, 90, 99)))


@dataclass(frozen=True, slots=True)
class Summary:
    """Requests that have something in common. `shares` says which part of their time until the head went where."""

    of: tuple[str, ...]
    count: int
    errors: int
    milliseconds: Mapping[str, Percentiles]
    shares: Mapping[str, float]


def summaries(timings: Iterable[Timing], by: Callable[[Timing], tuple[str, ...]]) -> list[Summary]:
    """One for each value of `by`, in the order of these values; failed requests count like others."""
    groups: dict[tuple[str, ...], list[Timing]] = {}
    for timing in timings:
        groups.setdefault(by(timing), []).append(timing)
    return [_summary(of, groups[of]) for of in sorted(groups)]


def _summary(of: tuple[str, ...], timings: Sequence[Timing]) -> Summary:
    columns = {name: [getattr(timing, name) for timing in timings] for name in (*PARTS, *WHOLES)}
    whole = sum(columns["response_begin_ms"])
    return Summary(
        of=of,
        count=len(timings),
        errors=sum(timing.is_error for timing in timings),
        milliseconds={name: percentiles(values) for name, values in columns.items()},
        shares={name: sum(columns[name]) / whole if whole else 0.0 for name in PARTS},
    )
