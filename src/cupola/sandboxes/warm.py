"""Warm pools: of every version that new sessions can begin on, as many sandboxes wait as it was told to keep.

`decide` is pure: from what is wanted and what there is to what must be started and stopped. `WarmPools` runs it
whenever something has changed. A pool never takes room from a session, and a version whose sandboxes do not come up is
tried again later and later, so that a broken image starts no containers in a loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from cupola.agents import Agent, AgentVersion, choices_of
from cupola.errors import CupolaError
from cupola.passes import one_pass
from cupola.sandboxes.hooks import HookFailed
from cupola.sandboxes.live import LiveSandbox, VersionKey
from cupola.sandboxes.ready import Sandboxes
from cupola.store import Store
from cupola.store import agents as rows

log = structlog.get_logger()

AT_ONCE = 4
"""Warm sandboxes that start side by side: more would slow down the cold starts that somebody waits for."""
_FIRST_RETRY = 5.0
_LAST_RETRY = 300.0
_SHORTEST_PAUSE = 0.1
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A warm sandbox. `late` if it takes any session, also one with an id of its own."""

    id: str
    late: bool
    since: float


@dataclass(frozen=True, slots=True)
class Pool:
    """One version: what is wanted and what there is.

    `spare` is how many sandboxes that were started with an id may stay beyond the pool until they are idle: the one
    that was probed, unless it is in the pool anyway or traffic has left the version. `tries` is how many may start side
    by side: none while a start that failed is not to be repeated yet, then one until it has come up.
    """

    version: VersionKey
    wanted: int
    spare: int = 1
    binds_late: bool = False
    waiting: tuple[Waiting, ...] = ()
    starting: int = 0
    tries: int = AT_ONCE

    @property
    def fit(self) -> list[Waiting]:
        """Those that count, longest waiting first: where containers can be bound late, only those that are."""
        fit = [one for one in self.waiting if one.late or not self.binds_late]
        return sorted(fit, key=lambda one: (one.since, one.id))


@dataclass(frozen=True, slots=True)
class Plan:
    """`start` names a version once for each start; `stop` and `pooled` name sandboxes."""

    start: tuple[VersionKey, ...]
    stop: frozenset[str]
    pooled: frozenset[str]


def decide(pools: Sequence[Pool], *, room: int, slots: int) -> Plan:
    """What brings the pools closer to what is wanted, with `room` for further sandboxes and `slots` for starts now.

    Versions are served in turn, so that one with many to start does not keep the others waiting.
    """
    pooled, stop = set[str](), set[str]()
    missing: dict[VersionKey, int] = {}
    for pool in pools:
        kept = pool.fit[: pool.wanted]
        pooled.update(one.id for one in kept)
        beyond = [one for one in pool.waiting if one not in kept]
        has_minted = any(not one.late for one in kept)
        spare = [one for one in beyond if not one.late][: 0 if has_minted else pool.spare]
        stop.update(one.id for one in beyond if one not in spare)
        missing[pool.version] = max(0, min(pool.wanted - len(kept), pool.tries) - pool.starting)
    start: list[VersionKey] = []
    while len(start) < min(room, slots) and any(missing.values()):
        for version in [version for version, number in missing.items() if number]:
            if len(start) < min(room, slots):
                start.append(version)
                missing[version] -= 1
    return Plan(tuple(start), frozenset(stop), frozenset(pooled))


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last start of a version's pool failed, how often in a row, and when it is tried again (unix seconds)."""

    reason: str
    failures: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class Wish:
    """How many sandboxes are to wait for a version's sessions: `size` was said, `wanted` follows from the traffic."""

    agent: Agent
    version: AgentVersion
    size: int
    wanted: int
    gets_traffic: bool


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as it is shown."""

    wish: Wish
    ready: int
    starting: int
    waits_for_room: bool
    trouble: Trouble | None


class WarmPools:
    """Keeps the pools. `default` is the size for versions that do not say; `clock` gives unix seconds."""

    def __init__(
        self, store: Store, sandboxes: Sandboxes, *, default: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._default = default
        self._clock = clock
        self._wishes: Mapping[VersionKey, Wish] = {}
        self._stale = True
        self._abandoned: set[VersionKey] = set()
        self._troubles: dict[VersionKey, Trouble] = {}

    def reconsider(self) -> None:
        """Something that the wishes follow from has changed: versions, a selector, an agent's being enabled."""
        self._stale = True
        self._sandboxes.live.changed.set()

    async def resize(self, version: AgentVersion, size: int | None) -> None:
        """The last word on a version's pool, None for the default. A start that failed is tried again at once."""
        await self._store.write(lambda conn: rows.set_warm_pool(conn, version.key, size))
        self._troubles.pop(version.key, None)
        self.reconsider()

    async def run(self) -> None:
        """Until cancelled: a pass whenever something changes. One that fails is logged; the next one tries again."""
        changed = self._sandboxes.live.changed
        while True:
            changed.clear()
            await one_pass(self.once, "warm pools")
            await asyncio.sleep(_SHORTEST_PAUSE)
            try:
                async with asyncio.timeout(self._patience()):
                    await changed.wait()
            except TimeoutError:
                self._stale = True

    def _patience(self) -> float:
        now = self._clock()
        retries = [trouble.retry_at - now for trouble in self._troubles.values() if trouble.retry_at > now]
        return min([_LONGEST_PAUSE, *retries])

    async def once(self) -> None:
        """One pass: stops what is too much and begins to start what is missing."""
        if self._stale:
            self._stale = False
            await self._read_wishes()
        starts = self._sandboxes.warm_starts
        plan = decide(self._pools(), room=self._sandboxes.room, slots=AT_ONCE - len(starts))
        for live in self._sandboxes.live.warm():
            live.pooled = live.row.id in plan.pooled
            if live.row.id in plan.stop:
                self._sandboxes.stops.discard_soon(live, "its pool has shrunk")
        for key in plan.start:
            wish = self._wishes[key]
            starts.begin(wish.agent, wish.version).add_done_callback(partial(self._started, wish.version))

    def _pools(self) -> list[Pool]:
        now = self._clock()
        waiting: dict[VersionKey, list[Waiting]] = {}
        for live in self._sandboxes.live.warm():
            if not live.stopping:
                one = Waiting(live.row.id, live.row.is_bound_late, live.row.created_at)
                waiting.setdefault(live.version_key, []).append(one)
        return [
            Pool(
                version=key,
                wanted=wish.wanted,
                spare=0 if key in self._abandoned or not wish.agent.enabled else 1,
                binds_late=bool(wish.version.binds_late),
                waiting=tuple(waiting.get(key, ())),
                starting=self._sandboxes.warm_starts.of_version(key),
                tries=self._tries(key, now),
            )
            for key, wish in self._wishes.items()
        ]

    def _tries(self, key: VersionKey, now: float) -> int:
        trouble = self._troubles.get(key)
        if trouble is None:
            return AT_ONCE
        return 1 if trouble.retry_at <= now else 0

    def _started(self, version: AgentVersion, task: asyncio.Task[LiveSandbox]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._troubles.pop(version.key, None)
            if version.binds_late is None:
                self._learn(version, task.result().binds_late)
        elif isinstance(error, HookFailed) and error.absent:
            self._learn(version, False)
        else:
            self._hold_back(version, error)

    def _learn(self, version: AgentVersion, binds_late: bool) -> None:
        self._store.write_later(lambda conn: rows.set_binds_late(conn, version.key, binds_late))
        self.reconsider()

    def _hold_back(self, version: AgentVersion, error: BaseException) -> None:
        now, earlier = self._clock(), self._troubles.get(version.key)
        if earlier is not None and earlier.retry_at > now:
            return  # it was begun beside the one that has failed already
        failures = 1 if earlier is None else earlier.failures + 1
        pause = min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10))
        reason = error.message if isinstance(error, CupolaError) else f"internal error: {type(error).__name__}"
        self._troubles[version.key] = Trouble(reason, failures, now + pause)
        log.warning(
            "warm sandbox not ready",
            agent=version.agent,
            version=version.version,
            reason=reason,
            failures=failures,
            retry_in=pause,
            exc_info=None if isinstance(error, CupolaError) else error,
        )

    # What is wanted

    async def _read_wishes(self) -> None:
        there = {live.version_key for live in self._sandboxes.live.warm()} | self._sandboxes.warm_starts.versions()
        waiting = {(project, agent) for project, agent, _ in there}

        def question(conn: Any) -> dict[VersionKey, Wish]:
            agents = rows.every_agent(conn) if self._default else rows.agents_with_pools(conn)
            return {
                wish.version.key: wish
                for project, name in sorted({*agents, *waiting})
                for wish in self._wishes_of(conn, project, name)
            }

        before, self._wishes = self._wishes, await self._store.read(question)
        left = {key for key, wish in before.items() if wish.gets_traffic}
        kept = {key for key, wish in self._wishes.items() if wish.gets_traffic}
        self._abandoned = ((self._abandoned | left) - kept) & self._wishes.keys()
        self._troubles = {key: trouble for key, trouble in self._troubles.items() if key in kept}

    def _wishes_of(self, conn: Any, project: str, name: str) -> list[Wish]:
        agent = rows.get_agent(conn, project, name)
        if agent is None:
            return []
        versions = rows.newest_versions(conn, project, name, include_drafts=True)
        chosen = {version.key for version, _ in choices_of(agent, versions)} if agent.enabled else set()
        wishes = []
        for version in versions:
            size = self._default if version.warm_pool is None else version.warm_pool
            gets_traffic = version.key in chosen
            wishes.append(Wish(agent, version, size, size if gets_traffic else 0, gets_traffic))
        return wishes

    async def of_agent(self, project: str, name: str) -> list[PoolState]:
        """The pools of an agent's versions as they are now, newest first."""
        wishes = await self._store.read(lambda conn: self._wishes_of(conn, project, name))
        return [self._state(wish) for wish in wishes]

    async def all(self) -> list[PoolState]:
        """Every pool that is wanted, and every version of which a sandbox waits."""
        await self._read_wishes()
        states = [self._state(wish) for wish in self._wishes.values()]
        return [state for state in states if state.wish.wanted or state.ready or state.starting]

    def _state(self, wish: Wish) -> PoolState:
        key = wish.version.key
        ready = sum(live.version_key == key and not live.stopping for live in self._sandboxes.live.warm())
        starting = self._sandboxes.warm_starts.of_version(key)
        missing = wish.wanted > ready + starting
        return PoolState(wish, ready, starting, missing and self._sandboxes.room <= 0, self._troubles.get(key))
