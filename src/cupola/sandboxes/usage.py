"""What sessions use: seconds of running and of processor time, kept in the store, held against their budgets.

Counted by the reaper's pass, so at most some seconds late, and once more when a sandbox stops. Running time is counted
by the platform's own steady clock, so a jump of the machine's clock is no use, nor is the time between a crash and the
next start. Processor time is what the driver has counted since the sandbox began; how much of it stands on the account
already is kept in the sandbox's row, together with the account, so that a crash neither loses nor doubles it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from cupola.errors import CupolaError
from cupola.limits import Budget, Spent, budget_of, spent
from cupola.sandboxes.live import LiveSandbox
from cupola.store import Store
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows

log = structlog.get_logger()

_PATIENCE = 3.0
"""Seconds that a driver has for an answer; without one the next pass counts what this one has missed."""


class Usage:
    """`default` is the budget of sessions whose version says nothing; `clock` gives unix seconds."""

    def __init__(self, store: Store, default: Budget, clock: Callable[[], float]) -> None:
        self._store = store
        self._default = default
        self._clock = clock

    def spent(self, live: LiveSandbox) -> Spent | None:
        """The budget that a running session has used up."""
        return None if live.session is None else spent(live.session, self.budget(live))

    def budget(self, live: LiveSandbox) -> Budget:
        return budget_of(live.version, self._default)

    @property
    def default(self) -> Budget:
        return self._default

    async def count(self, lives: Iterable[LiveSandbox]) -> None:
        """Brings the accounts of running sessions up to now, side by side, and keeps them."""
        known = [live for live in lives if live.session is not None]
        used = dict(zip(known, await asyncio.gather(*map(self._cpu_of, known)), strict=True))
        await self._keep([live for live in known if self._note(live, used[live])])

    async def count_last(self, live: LiveSandbox, *, in_haste: bool) -> None:
        """The same for one that is about to be stopped; in haste the driver is not asked."""
        if live.session is not None and self._note(live, None if in_haste else await self._cpu_of(live)):
            await self._keep([live])

    async def _cpu_of(self, live: LiveSandbox) -> float | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await live.driver.usage(live.handle)
        except (CupolaError, TimeoutError) as error:
            log.info("could not see what a sandbox uses", sandbox=live.row.id, reason=str(error))
            return None

    def _note(self, live: LiveSandbox, cpu_seconds: float | None) -> bool:
        """Moves the account in memory, in one go: a pass and a stop may count at once. False if nothing was used."""
        session, before, now = live.session, live.row.used_cpu_seconds, self._clock()
        assert session is not None
        seconds = 0.0 if live.counted_at is None else max(0.0, now - live.counted_at)
        total = before if cpu_seconds is None else max(before, cpu_seconds)
        live.counted_at = now
        live.row = replace(live.row, used_cpu_seconds=total)
        live.session = session.to_used(seconds, total - before)
        return seconds > 0 or total > before

    async def _keep(self, counted: Sequence[LiveSandbox]) -> None:
        """Totals, not differences: to keep them twice, or behind those of a later count, changes nothing."""
        accounts = [live.session for live in counted if live.session is not None]
        sandboxes = {live.row.id: live.row.used_cpu_seconds for live in counted}

        def change(conn: Any) -> None:
            session_rows.keep_usage(conn, accounts)
            sandbox_rows.keep_usage(conn, sandboxes)

        if accounts:
            await self._store.write(change)
