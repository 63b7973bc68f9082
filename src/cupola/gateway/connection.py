"""One HTTP/1.1 connection to a sandbox, and the exchange that it is used for now.

It is an `asyncio.Protocol` around httptools' parser, and decides what is a reply, what is a loss, and whether
the connection can be used again. It leaves out which connection a request takes and for how long one is kept:
that is its `Keeper`'s, the pool in `upstream`. What it leaves out of HTTP stands there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, cast

import httptools

from cupola.errors import BadRequest, SandboxLost
from cupola.gateway.headers import Header, find
from cupola.gateway.reply import Reply

HIGH_WATER = 256 * 1024
"""Bytes of a reply that may wait for a slow reader before the sandbox is made to wait. As much as one read
takes."""

HEAD_LIMIT = 64 * 1024
"""Bytes of status line and headers. Servers in Python stop at 8 to 64 KiB of request headers; we are as
patient."""


class Stale(SandboxLost):
    """A connection kept open from an earlier exchange was closed before it said anything."""


class Keeper(Protocol):
    """What a connection asks of the pool that it belongs to."""

    open: set[Connection]
    stale_seconds: float

    def keep(self, connection: Connection, now: float) -> None:
        """Takes back a connection whose exchange is over, for the next one."""

    def drop(self, connection: Connection) -> None:
        """Forgets a connection that has closed."""


class Connection(asyncio.Protocol):
    """One TCP connection to a sandbox, and the exchange that it is used for now."""

    __slots__ = (
        "_drained",
        "_excess",
        "_head_bytes",
        "_headers",
        "_headless",
        "_lasts",
        "_loop",
        "_parser",
        "_paused",
        "_pool",
        "_reply",
        "_sent",
        "_started",
        "_transport",
        "_used",
        "_write_paused",
        "closed",
        "idle_since",
    )

    def __init__(self, pool: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self.idle_since = 0.0
        self._pool = pool
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set by connection_made
        self._reply: Reply | None = None
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._headless = False
        self._lasts = False
        self._excess = False
        self._paused = False
        self._sent = False
        self._started = 0.0
        self._used = False
        self._write_paused = False
        self._drained: asyncio.Future[None] | None = None

    # What a request does with it

    async def exchange(self, method: str, message: bytes) -> Reply:
        """Sends a whole request and returns when the reply's head is here."""
        reply = self._begin(method)
        try:
            self._transport.write(message)
            self._sent = True
            await reply.head()
        except BaseException:
            self.abort()
            raise
        return reply

    async def exchange_stream(self, method: str, head: bytes, body: AsyncIterator[bytes], length: int | None) -> Reply:
        """As `exchange`, with a body that is still being made."""
        reply = self._begin(method)
        try:
            self._transport.write(head)
            if await self._send_stream(reply, body, length):
                self._sent = True
            await reply.head()
        except BaseException:
            self.abort()
            raise
        return reply

    def _begin(self, method: str) -> Reply:
        self._reply = reply = Reply(self, self._loop)
        self._head_bytes = 0
        self._headless = method == "HEAD"
        self._sent = False
        self._started = self._loop.time()
        return reply

    async def _send_stream(self, reply: Reply, body: AsyncIterator[bytes], length: int | None) -> bool:
        """True when all of `body` was sent; False when the sandbox answered or went away before."""
        sent = 0
        async for chunk in body:
            if self._reply is not reply or reply.status:
                return False
            if not chunk:
                continue
            sent += len(chunk)
            if length is None:
                self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            elif sent <= length:
                self._transport.write(chunk)
            else:
                break
            if self._write_paused:
                await self._drain()
        if length is None:
            self._transport.write(b"0\r\n\r\n")
        elif sent != length:
            raise BadRequest(f"The request's body is not as long as its content-length says ({length} bytes).")
        return True

    async def _drain(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    # What a reply does with it

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self._reply = None
        self.closed = True
        self._transport.abort()

    def lose(self, error: SandboxLost) -> None:
        """Ends the exchange, if there is one, with `error`."""
        reply = self._reply
        self.abort()
        if reply is not None:
            reply.fail(error)

    # What the event loop does with it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Both asyncio and uvloop have set TCP_NODELAY.
        self._transport = cast(asyncio.Transport, transport)
        self._pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:  # nobody asked
            self.abort()
            return
        if not reply.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            lost = SandboxLost("The agent's container answered with something that is not HTTP/1.1.")
            lost.__cause__ = error
            self.lose(lost)
            return
        if reply.whole:
            self._release()
        elif not reply.status and self._head_bytes > HEAD_LIMIT:
            self.lose(_head_too_large())
            return
        elif reply.waiting > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        reply.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.drop(self)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if exc is None and reply.status and _ends_with_connection(reply):
            reply.finish()
            reply.wake()
        else:
            reply.fail(self._loss(reply))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What the parser does with it

    def on_message_begin(self) -> None:
        reply = self._reply
        self._headers = []
        self._excess = reply is not None and bool(reply.status)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None or self._excess:
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise httptools.HttpParserError(f"status {status} is not an answer")
            return
        if status > 599:
            raise httptools.HttpParserError(f"status {status} is not an answer")
        if self._head_bytes > HEAD_LIMIT and _size(self._headers) > HEAD_LIMIT:
            raise httptools.HttpParserError("too many bytes of headers")
        reply.headers = self._headers
        self._headers = []  # what comes now are trailers
        reply.status = status
        if self._headless:
            reply.finish()

    def on_body(self, chunk: bytes) -> None:
        reply = self._reply
        if reply is not None and not self._excess and not self._headless:
            reply.feed(chunk)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is not None and reply.status and not self._excess:
            self._lasts = self._parser.should_keep_alive()  # the parser knows it now only
            reply.finish()

    def _release(self) -> None:
        """The reply is whole: the connection goes back to its pool, if it can be used again."""
        self._reply = None
        self.resume()
        self._used = True
        if (
            self._sent
            and not self._excess
            and not self._headless  # the parser waits for a body that does not come
            and self._lasts
            and not self._transport.get_write_buffer_size()
            and not self._transport.is_closing()
        ):
            self._pool.keep(self, self._loop.time())
        else:
            self.abort()

    def _loss(self, reply: Reply) -> SandboxLost:
        if reply.status:
            return SandboxLost("The agent's container closed the connection in the middle of its reply.")
        sentence = "The agent's container closed the connection before it answered; its log says why."
        soon = self._loop.time() - self._started < self._pool.stale_seconds
        return Stale(sentence) if self._used and soon and not self._head_bytes else SandboxLost(sentence)


def _ends_with_connection(reply: Reply) -> bool:
    """True when neither length nor chunks say where the reply ends (RFC 9112 §6.3)."""
    encoding = find(reply.headers, b"transfer-encoding")
    if encoding is not None:
        return not encoding.lower().rstrip().endswith(b"chunked")
    return find(reply.headers, b"content-length") is None


def _size(headers: Sequence[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _head_too_large() -> SandboxLost:
    return SandboxLost(f"The agent's container answered with more than {HEAD_LIMIT} bytes of headers.")
