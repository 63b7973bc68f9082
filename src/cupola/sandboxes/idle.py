"""The pass over what runs: stops what is idle or over its budget, buries what has died, keeps accesses and usage.

The decision is `sessions.is_idle`; here it is only carried out. Each pass walks the live sandboxes in memory; sessions
that sleep cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog

from cupola.errors import CupolaError
from cupola.limits import over_budget
from cupola.passes import again_and_again
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import is_idle
from cupola.store import Store
from cupola.store import responses as response_rows
from cupola.store import sessions as session_rows

log = structlog.get_logger()

_LONGEST_PAUSE = 5.0
_PATIENCE = 2.0
"""Seconds that a pass waits for the sandboxes that it stops."""

CUT_OFF_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a sandbox over its budget: enough to put things down, too few to go on."""


class Reaper:
    """Runs the pass again and again. `default_timeout` is in seconds; a version's own wins.

    `step` makes `clock` agree with the machine's and says by how many seconds that made it jump.
    """

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        *,
        default_timeout: float,
        clock: Callable[[], float] = time.time,
        step: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._default_timeout = default_timeout
        self._clock = clock
        self._step = step
        self._not_passed = 0.0
        self._reaping: set[asyncio.Task[None]] = set()
        self._touched: dict[tuple[str, str, str], float] = {}

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "what runs", pause=min(_LONGEST_PAUSE, max(0.2, self._default_timeout / 4)))

    async def once(self) -> None:
        """One pass."""
        await self._follow_the_clock()
        now = self._clock()
        await self._keep_accesses()
        await self._see_what_has_finished(now)
        await self._sandboxes.usage.count(live for live in self._sandboxes.live if not live.stopping)
        running = [live for live in self._sandboxes.live if not live.stopping]
        over = [live for live in running if self._sandboxes.usage.spent(live)]
        idle = [live for live in running if live not in over and self._is_idle(live, now)]
        await self._stop_all([self._cut_off(live) for live in over] + [self._reap(live) for live in idle])
        await asyncio.gather(*(self._check(live) for live in self._sandboxes.live if not live.stopping))

    async def _follow_the_clock(self) -> None:
        """Moves along what was noted by the clock as it was: in memory, and for a jump forward in the store.

        After a jump back, what is stored lies ahead of its time: sessions live longer, and none is lost.
        """
        if moved := self._step():
            log.warning("the machine's clock has jumped", seconds=round(moved, 1))
            for live in self._sandboxes.live:
                live.clock_jumped(moved)
            self._not_passed += max(moved, 0.0)
        if self._not_passed:
            move = partial(session_rows.move_accesses, moved=self._not_passed, now=self._clock())
            await self._store.write(move)  # where the disk is full, the next pass tries again
            self._not_passed = 0.0

    async def _see_what_has_finished(self, now: float) -> None:
        """A background response counts as activity until its container has stored its last word."""
        for live in self._sandboxes.live:
            if live.background and not live.open_requests and live.session is not None:
                running = await self._store.read(partial(_running_responses, key=live.session.key))
                if finished := live.background - running:
                    live.background -= finished
                    live.last = now

    def _is_idle(self, live: LiveSandbox, now: float) -> bool:
        if live.pooled:
            return False  # it waits for a session, however long that takes
        return is_idle(live.activity(), live.version.idle_timeout or self._default_timeout, now)

    async def _stop_all(self, stops: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Stops them side by side; one that uses up its grace does not hold up the pass."""
        tasks = [asyncio.create_task(stop) for stop in stops]
        self._reaping.update(tasks)
        for task in tasks:
            task.add_done_callback(self._reaping.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)

    async def _reap(self, live: LiveSandbox) -> None:
        try:
            await self._stop(live)
        except CupolaError as error:
            log.warning("could not stop an idle sandbox", sandbox=live.row.id, reason=error.message)

    async def _cut_off(self, live: LiveSandbox) -> None:
        """Stops a sandbox in the middle of whatever it does: its session has used up what it may."""
        over = self._sandboxes.usage.spent(live)
        if over is None or live.session is None or live.stopping:
            return
        why = over_budget(live.session, over)
        try:
            await self._sandboxes.stops.stop(
                live, "budget used up", grace=CUT_OFF_GRACE, last_word=why.message, ending=why
            )
        except CupolaError as error:
            log.warning("could not stop a sandbox over its budget", sandbox=live.row.id, reason=error.message)

    async def _stop(self, live: LiveSandbox) -> None:
        if live.stopping or not self._is_idle(live, self._clock()):
            return  # a request came while this task was waiting for its turn
        if live.session is None:
            self._sandboxes.live.remove(live)
            await self._sandboxes.stops.discard_warm(live)
        else:
            await self._sandboxes.stops.stop(live, "idle")

    async def _check(self, live: LiveSandbox) -> None:
        try:
            await self._sandboxes.stops.check(live)
        except CupolaError as error:
            log.warning("could not look at a sandbox", sandbox=live.row.id, reason=error.message)

    async def _keep_accesses(self) -> None:
        accessed = {
            live.session.key: live.last
            for live in self._sandboxes.live
            if live.session is not None and self._touched.get(live.session.key) != live.last
        }
        if accessed:
            await self._store.write(lambda conn: session_rows.touch_sessions(conn, accessed))
        self._touched = {live.session.key: live.last for live in self._sandboxes.live if live.session is not None}


def _running_responses(conn: Any, key: SessionKey) -> set[str]:
    return {response.id for response in response_rows.in_progress_responses(conn, [key])}
