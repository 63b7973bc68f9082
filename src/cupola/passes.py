"""Background loops: one pass after the other, whatever becomes of any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


async def again_and_again(once: Callable[[], Awaitable[object]], what: str, *, pause: float) -> None:
    """A pass every `pause` seconds, the first after one pause, until cancelled. `what` names the passes in the log."""
    while True:
        await asyncio.sleep(pause)
        try:
            await once()
        except Exception:
            # The edge of a background loop: the next pass tries again.
            log.exception("a pass failed", over=what)
