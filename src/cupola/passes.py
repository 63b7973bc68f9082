"""Background loops: one pass after the other, whatever becomes of any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


Once = Callable[[], Awaitable[object]]


async def again_and_again(once: Once, what: str, *, pause: float, at_once: bool = False) -> None:
    """A pass every `pause` seconds until cancelled, the first after one pause, or `at_once`. `what` is for the log."""
    if not at_once:
        await asyncio.sleep(pause)
    while True:
        await one_pass(once, what)
        await asyncio.sleep(pause)


async def one_pass(once: Once, what: str) -> None:
    """A pass of a loop that goes on after it: what fails is logged, and the next one tries again."""
    try:
        await once()
    except Exception:
        # The edge of a background loop.
        log.exception("a pass failed", over=what)
