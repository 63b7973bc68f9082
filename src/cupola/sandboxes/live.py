"""The sandboxes that run now and serve through this process: the hot path's only look-up.

A memory of what the store says, filled by starts and by adoption after a restart, emptied when a sandbox stops. What
is not in here is asked of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from cupola.agents import AgentVersion
from cupola.drivers.base import Address, Driver, Handle
from cupola.errors import CupolaError
from cupola.sandboxes.generation import Generation
from cupola.sessions import Activity, Sandbox, Session
from cupola.timings import SessionStart, Start

SessionKey = tuple[str, str, str]
"""Project, agent, session id."""
VersionKey = tuple[str, str, str]
"""Project, agent, version."""


@dataclass(slots=True, eq=False)
class LiveSandbox:
    """A ready sandbox. `session` is None while it is warm, `generation` where no official adapter answers.

    `start` is how it came up, None where an earlier process had started it; `start_type` says how its session came by
    it. `pooled` is set while a warm pool counts on it: then it may wait for as long as it likes. `counted_at` is until
    when its running time stands on the session's account. `ending` is why it is being stopped although something may
    be running: what open requests are told. Mutable: it counts what is open.
    """

    row: Sandbox
    handle: Handle
    address: Address
    driver: Driver
    version: AgentVersion
    last: float
    session: Session | None = None
    open_requests: int = 0
    background: set[str] = field(default_factory=set)
    stopping: bool = False
    generation: Generation | None = None
    start: Start | None = None
    counted_at: float | None = None
    ending: CupolaError | None = None
    binds_late: bool = False
    start_type: SessionStart = SessionStart.COLD
    pooled: bool = False

    @property
    def version_key(self) -> VersionKey:
        return (self.row.project, self.row.agent, self.row.version)

    def opened(self, now: float) -> None:
        self.open_requests += 1
        self.last = now

    def closed(self, now: float) -> None:
        self.open_requests -= 1
        self.last = now

    @property
    def rests(self) -> bool:
        """Nothing is open and nothing runs: it may be stopped for the sake of another."""
        return not (self.stopping or self.open_requests or self.background)

    def clock_jumped(self, seconds: float) -> None:
        """Moves what was noted along with the clock, so that no time seems to have passed."""
        self.last += seconds
        if self.counted_at is not None:
            self.counted_at += seconds

    def activity(self) -> Activity:
        return Activity(self.open_requests, len(self.background), self.last)


class LiveSandboxes:
    """All live sandboxes of this process, by session and, while warm, by version.

    `changed` is set by whatever changes what there is, for who keeps it as it should be.
    """

    def __init__(self) -> None:
        self._by_session: dict[SessionKey, LiveSandbox] = {}
        self._warm: dict[VersionKey, list[LiveSandbox]] = {}
        self.changed = asyncio.Event()

    def __iter__(self) -> Iterator[LiveSandbox]:
        yield from list(self._by_session.values())
        yield from self.warm()

    def __len__(self) -> int:
        return len(self._by_session) + sum(map(len, self._warm.values()))

    def of_session(self, key: SessionKey) -> LiveSandbox | None:
        return self._by_session.get(key)

    def warm(self) -> list[LiveSandbox]:
        """Those that wait for a session."""
        return [live for of_version in self._warm.values() for live in of_version]

    def add(self, live: LiveSandbox) -> None:
        if live.session is None:
            self._warm.setdefault(live.version_key, []).append(live)
        else:
            self._by_session[live.session.key] = live
        self.changed.set()

    def remove(self, live: LiveSandbox) -> None:
        if live.session is not None and self._by_session.get(live.session.key) is live:
            del self._by_session[live.session.key]
        waiting = self._warm.get(live.version_key, [])
        if live in waiting:
            waiting.remove(live)
        if not waiting:
            self._warm.pop(live.version_key, None)
        self.changed.set()

    def has_warm(self, version: VersionKey, *, for_own_id: bool = False) -> bool:
        """Whether `take_warm` would find one."""
        return self._best_warm(version, for_own_id) is not None

    def take_warm(self, version: VersionKey, *, for_own_id: bool = False) -> LiveSandbox | None:
        """A warm sandbox of that version, which now belongs to whoever asked.

        A session with an id of its own needs one that is bound late; others leave those to it while they can.
        """
        taken = self._best_warm(version, for_own_id)
        if taken is not None:
            self.remove(taken)
        return taken

    def _best_warm(self, version: VersionKey, for_own_id: bool) -> LiveSandbox | None:
        waiting = [
            live
            for live in self._warm.get(version, ())
            if not live.stopping and (live.row.is_bound_late or not for_own_id)
        ]
        return min(waiting, key=lambda live: live.row.is_bound_late, default=None)
