"""A sandbox's answer while it arrives: status and headers at once, the body as it comes.

It stands between who reads and what receives, with one future to wait on per exchange: no task, queue or
stream object per request. It leaves out how the bytes arrive: `connection` feeds it, and is told through
`Receiver` when to go on and when to give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from cupola.errors import PayloadTooLarge, SandboxLost
from cupola.gateway.headers import Header


class Receiver(Protocol):
    """What a reply asks of the connection that it comes over."""

    def resume(self) -> None:
        """Reads on, if reading was paused because much was waiting."""

    def abort(self) -> None:
        """Closes at once: nobody wants the rest."""


class Reply:
    """A sandbox's answer: status and headers at once, the body as it comes.

    Read it to its end or close it: a reply left halfway holds its connection open. Whoever leaves early is
    seen to leave by the sandbox.
    """

    __slots__ = (
        "_begun",
        "_connection",
        "_error",
        "_loop",
        "_parts",
        "_patience_ends",
        "_timer",
        "_waiter",
        "headers",
        "status",
        "waiting",
        "whole",
    )

    def __init__(self, connection: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self._connection = connection
        self._loop = loop
        self._parts: list[bytes] = []
        self.waiting = 0
        self._begun = False
        self.whole = False
        self._error: SandboxLost | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._patience_ends = 0.0

    @property
    def complete(self) -> bytes | None:
        """The whole body, if all of it is here and nothing of it was read yet."""
        if not self.whole or self._begun:
            return None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def at_end(self) -> bool:
        """True when the body was read to its end."""
        return self.whole and not self._parts

    async def next_chunk(self, patience: float | None = None) -> bytes | None:
        """The bytes that have come since the last call, as soon as there are any; empty at the end.

        None when `patience` seconds went by without a byte. Raises `SandboxLost` when the end will never
        come.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.whole:
                return b""
            if not await self._wait(patience):
                return None
        return self._take()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.next_chunk():
            yield chunk

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The whole body; raises `PayloadTooLarge` when it has more than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while chunk := await self.next_chunk():
            size += len(chunk)
            if size > limit:
                await self.aclose()
                raise PayloadTooLarge(f"The agent's reply has more than {limit} bytes; let it answer with less.")
            parts.append(chunk)
        return b"".join(parts)

    async def aclose(self) -> None:
        """Lets go. A reply that was not read to its end ends its connection."""
        self._stop_timer()
        if not self.whole and self._error is None:
            self._connection.abort()
        self.whole = self._begun = True
        self._parts.clear()

    async def head(self) -> None:
        """Waits for status and headers."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait(None)

    def feed(self, chunk: bytes) -> None:
        self._parts.append(chunk)
        self.waiting += len(chunk)

    def finish(self) -> None:
        self.whole = True
        self._stop_timer()

    def fail(self, error: SandboxLost) -> None:
        self._error = error
        self._stop_timer()
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _take(self) -> bytes:
        parts = self._parts
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self.waiting = 0
        self._begun = True
        if not self.whole:
            self._connection.resume()
        return chunk

    async def _wait(self, patience: float | None) -> bool:
        """True when something has happened, False when patience is at its end."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        if patience is not None:
            # One timer per stretch of patience, not per chunk: it looks at the clock when it fires.
            self._patience_ends = self._loop.time() + patience
            if self._timer is None:
                self._timer = self._loop.call_at(self._patience_ends, self._lose_patience)
        try:
            return await waiter
        finally:
            self._waiter = None

    def _lose_patience(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() + 0.001 >= self._patience_ends:  # clocks of loops tick in milliseconds
            waiter.set_result(False)
        else:
            self._timer = self._loop.call_at(self._patience_ends, self._lose_patience)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
