"""The pass over state whose time is over: nobody sees those items any more, and this gives back their space."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from cupola.passes import again_and_again
from cupola.store import Store
from cupola.store import state as rows

log = structlog.get_logger()

_PAUSE = 60.0
_AT_ONCE = 500
"""Items in one change: bounds how long other writes wait for it."""


class StateExpiry:
    """Runs the pass again and again. `clock` gives unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time, pause: float = _PAUSE) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause

    async def run(self) -> None:
        """Until cancelled. A pass that fails is logged; the next one tries again."""
        await again_and_again(self.once, "expired state", pause=self._pause)

    async def once(self) -> int:
        """One pass, some items in each change; how many it removed."""
        now, removed = self._clock(), 0
        while True:
            some = await self._store.write(partial(rows.delete_expired, now=now, limit=_AT_ONCE))
            removed += some
            if some < _AT_ONCE:
                return removed
