"""Waiting for work that others may wait for, too: one who leaves does not end it for the rest."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from cupola.errors import Conflict

T = TypeVar("T")


async def joined(task: asyncio.Task[T], what: str) -> T:
    """What the task returns. Raises Conflict, beginning with `what`, when the task was broken off by somebody else."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        if not task.cancelled() or _is_being_cancelled():
            raise
        raise Conflict(
            f"{what} was broken off: it was stopped, its version or the session was deleted, or the platform stops."
        ) from error


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
