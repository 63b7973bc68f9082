"""Lets sessions in: no more at once than the limits allow, whoever asks at the same time.

The decision is `limits.first_full`. It is taken, and the seat with it, in one go without waiting in between, so that of
many newcomers to the last seat one gets it. A session holds a seat from the moment its start begins until its sandbox
is gone; who has one is read off the live sandboxes, so nothing has to be given back. Requests to a session that runs
never come here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from cupola.limits import Doing, Holder, Limits, Owner, first_full, refusal
from cupola.sandboxes.live import LiveSandbox, LiveSandboxes

Stop = Callable[[LiveSandbox, str], Awaitable[None]]
"""Stops a sandbox for a reason; returns when it is gone, also when somebody else has begun to stop it."""


class Admission:
    """`stop` is asked to make room."""

    def __init__(self, limits: Limits, live: LiveSandboxes, stop: Stop) -> None:
        self._limits = limits
        self._live = live
        self._stop = stop
        self._entering: list[Owner] = []

    async def make_room(self, owner: Owner) -> None:
        """Waits until there is room for one more session of `owner`. Raises QuotaExceeded when there will be none."""
        if self._limits.none:
            return
        while (full := first_full(self._limits, owner, self._holders())) is not None:
            leaving = full.makes_room
            found = None if leaving is None else self._live.of_session(_key(leaving))
            if found is None:
                raise refusal(full, owner)
            await self._stop(found, "made room")

    @asynccontextmanager
    async def seat(self, owner: Owner) -> AsyncGenerator[None]:
        """A seat for as long as the block runs; by its end the session has a live sandbox, or no sandbox at all."""
        await self.make_room(owner)
        self._entering.append(owner)
        try:
            yield
        finally:
            self._entering.remove(owner)

    def _holders(self) -> list[Holder]:
        entering = [Holder(owner) for owner in self._entering]
        return entering + [_holder(live) for live in self._live if live.session is not None]


def owner_of(live: LiveSandbox) -> Owner:
    """Whose the session in a sandbox is."""
    assert live.session is not None
    return Owner(live.row.project, live.row.agent, live.session.caller)


def _holder(live: LiveSandbox) -> Holder:
    doing = Doing.LEAVING if live.stopping else Doing.RESTING if live.rests else Doing.BUSY
    return Holder(owner_of(live), live.row.session_id, doing, live.last)


def _key(holder: Holder) -> tuple[str, str, str]:
    return (holder.owner.project, holder.owner.agent, holder.id)
