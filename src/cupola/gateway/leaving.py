"""Noticing that a caller leaves while he waits: his request ends then, and the sandbox sees its connection close.

Somebody must receive for that, a task for each request. Most replies are there before it is worth one, so requests are
looked at by one timer for all of them: a timer for each would be a twentieth of the gateway's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

from starlette.types import Receive

WATCH_AFTER = 0.05
"""Seconds until somebody listens whether the caller leaves; up to twice as many, as the timer falls."""


class CallerLeft(Exception):
    """The caller went away while his request was still being read."""


async def caller_body(receive: Receive) -> AsyncIterator[bytes]:
    """A request's body as it comes, for `proxy.forward`, which notices when the caller leaves halfway."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeft
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


class Leaving:
    """The callers who wait; of one event loop, while anybody does."""

    def __init__(self) -> None:
        self._new: set[CallerWatch] = set()
        self._old: set[CallerWatch] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_looking(self) -> bool:
        """Whether the timer runs: somebody waits whom nobody listens to yet."""
        return self._timer is not None

    def add(self, watch: CallerWatch, loop: asyncio.AbstractEventLoop) -> None:
        self._new.add(watch)
        if self._timer is None:
            self._timer = loop.call_later(WATCH_AFTER, self._look, loop)

    def discard(self, watch: CallerWatch) -> None:
        self._new.discard(watch)
        self._old.discard(watch)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Who was new at the last look and is still here waits long enough to be watched."""
        for watch in self._old:
            watch.begin()
        self._old, self._new = self._new, set()
        self._timer = loop.call_later(WATCH_AFTER, self._look, loop) if self._old else None


class CallerWatch:
    """Cancels its block when the caller leaves, as `asyncio.timeout` does when time is up."""

    __slots__ = ("_cancelling", "_leaving", "_left", "_loop", "_receive", "_task", "_watcher")

    def __init__(self, leaving: Leaving, receive: Receive) -> None:
        self._leaving = leaving
        self._receive = receive
        self._cancelling = 0
        self._left = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> CallerWatch:
        self._loop = asyncio.get_running_loop()  # once: each time is a system call
        self._task = asyncio.current_task(self._loop)
        if self._task is not None:
            self._cancelling = self._task.cancelling()
        return self

    def start(self) -> None:
        """To be called when the request's body is read: from now on nothing but a disconnect can come."""
        self._leaving.add(self, self._loop)

    def begin(self) -> None:
        """Listens from now on."""
        self._watcher = self._loop.create_task(self._until_disconnect())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._leaving.discard(self)
        if self._watcher is not None:
            self._watcher.cancel()
        if isinstance(error, CallerLeft):
            return True
        if self._left and self._task is not None:
            return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        return False

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._task is not None:
            self._task.cancel()
