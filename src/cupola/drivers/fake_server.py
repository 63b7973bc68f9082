"""The listening socket of a fake sandbox: every connection is known from the moment that it is accepted.

`asyncio.start_server` is not used: what it accepts while it is being closed is closed by nobody (CPython 3.11).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listening:
    """A port of its own on 127.0.0.1, from now on. `serve` is called for each connection, and closes it."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._serving: set[asyncio.Task[None]] = set()
        self._unserved: set[socket.socket] = set()
        self.port: int = self._socket.getsockname()[1]
        self._loop.add_reader(self._socket, self._accept, self._socket)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        """Takes no more; what was accepted goes on."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def break_off(self) -> None:
        """Takes no more, and ends what was accepted."""
        self.close()
        for task in self._serving:
            task.cancel()

    async def ended(self) -> None:
        """Returns when nothing that was accepted is open any more."""
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has gone again
        accepted.setblocking(False)
        self._unserved.add(accepted)
        task = self._loop.create_task(self._begin(accepted))
        self._serving.add(task)
        task.add_done_callback(partial(self._end, accepted))

    async def _begin(self, accepted: socket.socket) -> None:
        self._unserved.discard(accepted)
        reader, writer = await asyncio.open_connection(sock=accepted)
        await self._serve(reader, writer)

    def _end(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if accepted in self._unserved:  # cancelled before its first step
            self._unserved.discard(accepted)
            accepted.close()
