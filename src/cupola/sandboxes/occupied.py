"""One thing at a time: what copies or moves a session's home keeps others away from it meanwhile.

Snapshots, restores, forks and moves run as tasks of their own: a caller who leaves does not break them off, deleting
the session or stopping the platform does. While one holds a session, its requests wait and no sandbox starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from cupola.errors import Conflict
from cupola.sandboxes.joining import joined

T = TypeVar("T")
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Work:
    task: asyncio.Task[Any]
    doing: str
    holds: bool


class Occupied:
    """Which sessions something is being done with."""

    def __init__(self) -> None:
        self._works: dict[Key, _Work] = {}

    async def run(self, key: Key, doing: str, work: Callable[[], Coroutine[Any, Any, T]], *, holds: bool = False) -> T:
        """Does `work` for a session; with `holds` no sandbox starts for it meanwhile.

        Raises Conflict when something else is being done, or when this is broken off. `doing` completes "Session 's'
        is being …".
        """
        running = self._works.get(key)
        if running is not None:
            raise Conflict(f"Session '{key[2]}' is being {running.doing}; try again when that is done.")
        task = asyncio.create_task(work())
        self._works[key] = _Work(task, doing, holds)
        task.add_done_callback(lambda _: self._works.pop(key, None))
        return await joined(task, f"Session '{key[2]}' was being {doing}; that")

    async def free(self, key: Key) -> None:
        """Returns when nothing holds the session; at once, without letting others run, when nothing does."""
        while (work := self._works.get(key)) is not None and work.holds:
            await asyncio.wait([work.task])

    async def settled(self, key: Key) -> None:
        """Returns when nothing is being done with the session."""
        while (work := self._works.get(key)) is not None:
            await asyncio.wait([work.task])

    async def end(self, key: Key) -> None:
        """Breaks off what is being done with a session, and waits until it has tidied up."""
        if (work := self._works.get(key)) is not None:
            work.task.cancel()
            await asyncio.wait([work.task])

    async def aclose(self) -> None:
        """Breaks off everything."""
        for key in list(self._works):
            await self.end(key)
