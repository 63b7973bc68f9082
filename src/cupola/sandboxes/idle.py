"""The pass over what runs: stops what has been idle for its time-out, buries what has died, keeps last accesses.

The decision is `sessions.is_idle`; here it is only carried out. Each pass walks the live sandboxes in memory; sessions
that sleep cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from cupola.errors import CupolaError
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


class Reaper:
    """Runs the pass again and again. `default_timeout` is in seconds; a version's own wins."""

    def __init__(
        self,
        store: Store,
        sandboxes: Sandboxes,
        *,
        default_timeout: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._default_timeout = default_timeout
        self._clock = clock
        self._reaping: set[asyncio.Task[None]] = set()
        self._touched: dict[tuple[str, str, str], float] = {}

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        pause = min(_LONGEST_PAUSE, max(0.2, self._default_timeout / 4))
        while True:
            await asyncio.sleep(pause)
            try:
                await self.once()
            except Exception:
                # The edge of a background loop.
                log.exception("a pass of the reaper failed")

    async def once(self) -> None:
        """One pass."""
        now = self._clock()
        await self._keep_accesses()
        await self._see_what_has_finished(now)
        idle = [live for live in self._sandboxes.live if not live.stopping and self._is_idle(live, now)]
        await self._reap_all(idle)
        await asyncio.gather(*(self._check(live) for live in self._sandboxes.live if not live.stopping))

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

    async def _reap_all(self, idle: Sequence[LiveSandbox]) -> None:
        """Stops them side by side; one that uses up its grace does not hold up the pass."""
        tasks = [asyncio.create_task(self._reap(live)) for live in idle]
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

    async def _stop(self, live: LiveSandbox) -> None:
        if live.stopping or not self._is_idle(live, self._clock()):
            return  # a request came while this task was waiting for its turn
        if live.session is None:
            self._sandboxes.live.remove(live)
            await self._sandboxes.discard_warm(live)
        else:
            await self._sandboxes.stop(live, "idle")

    async def _check(self, live: LiveSandbox) -> None:
        try:
            await self._sandboxes.check(live)
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
