"""The sandboxes that run now and serve through this process: the hot path's only look-up.

A memory of what the store says, filled by starts and by adoption after a restart, emptied when a sandbox stops. What
is not in here is asked of the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cupola.agents import AgentVersion
from cupola.drivers.base import Address, Driver, Handle
from cupola.sandboxes.generation import Generation
from cupola.sessions import Activity, Sandbox, Session
from cupola.timings import Start

SessionKey = tuple[str, str, str]
"""Project, agent, session id."""


@dataclass(slots=True, eq=False)
class LiveSandbox:
    """A ready sandbox. `session` is None while it is warm, `generation` where no official adapter answers.

    `start` is how it came up, None where an earlier process had started it. Mutable: it counts what is open.
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

    def opened(self, now: float) -> None:
        self.open_requests += 1
        self.last = now

    def closed(self, now: float) -> None:
        self.open_requests -= 1
        self.last = now

    def activity(self) -> Activity:
        return Activity(self.open_requests, len(self.background), self.last)


class LiveSandboxes:
    """All live sandboxes of this process, by session and, while warm, by version."""

    def __init__(self) -> None:
        self._by_session: dict[SessionKey, LiveSandbox] = {}
        self._warm: list[LiveSandbox] = []

    def __iter__(self) -> Iterator[LiveSandbox]:
        yield from list(self._by_session.values())
        yield from list(self._warm)

    def __len__(self) -> int:
        return len(self._by_session) + len(self._warm)

    def of_session(self, key: SessionKey) -> LiveSandbox | None:
        return self._by_session.get(key)

    def add(self, live: LiveSandbox) -> None:
        if live.session is None:
            self._warm.append(live)
        else:
            self._by_session[live.session.key] = live

    def remove(self, live: LiveSandbox) -> None:
        if live.session is not None and self._by_session.get(live.session.key) is live:
            del self._by_session[live.session.key]
        if live in self._warm:
            self._warm.remove(live)

    def take_warm(self, project: str, agent: str, version: str) -> LiveSandbox | None:
        """A warm sandbox of that version, which now belongs to whoever asked."""
        wanted = (project, agent, version)
        for live in self._warm:
            row = live.row
            if (row.project, row.agent, row.version) == wanted and not live.stopping:
                self._warm.remove(live)
                return live
        return None
