"""Work in threads that must not be left half-done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def finished(work: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
    """Awaits `work` to its end even when cancelled: what it uses can then be closed.

    What it has made for nobody goes to `undo`.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None and undo is not None:
            undo(task.result())
        raise
