"""A sandbox's HTTP server for tests: it does with each connection what a script says, byte for byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType

from cupola.drivers.base import Address
from cupola.gateway.reply import Reply
from cupola.gateway.upstream import Upstream

DEADLINE = 5.0
"""Seconds after which a test that waits has failed."""


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until `condition` holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def ok(body: bytes = b"hello", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole reply with a content-length."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


@dataclass
class Connection:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Which connection to this server it is; the first is 1."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the other side has closed."""

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request; the body as it was on the wire, without its framing."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            return head, await self._chunks()
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        return head, await self.reader.readexactly(int(length[1])) if length else b""

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_left(self) -> None:
        """Waits until the other side closes."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.left.set()

    def reset(self) -> None:
        """Closes at once, as a killed process does."""
        self.writer.transport.abort()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body


Script = Callable[[Connection], Awaitable[None]]


class Sandbox:
    """Runs `script` for each connection and closes it when the script is at its end."""

    def __init__(self, script: Script) -> None:
        self.connections: list[Connection] = []
        self._script = script

    async def __aenter__(self) -> Sandbox:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        host, port = self._server.sockets[0].getsockname()
        self.address = Address(host, port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(reader, writer, len(self.connections) + 1)
        self.connections.append(connection)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._script(connection)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)


@asynccontextmanager
async def answering(*replies: bytes) -> AsyncIterator[Sandbox]:
    """A sandbox that gives these replies to each connection's requests in turn, the last one for ever."""

    async def script(connection: Connection) -> None:
        waiting = list(replies)
        while True:
            await connection.request()
            await connection.say(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    async with Sandbox(script) as sandbox:
        yield sandbox


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def get(upstream: Upstream, sandbox: Sandbox, method: str = "GET") -> Reply:
    """A request without a body."""
    return await upstream.request(sandbox.address, method, b"/", [], b"")
