"""The gateway's own HTTP/1.1 client, as thin as it can be.

Every call of every agent passes here, so this module is most of what the gateway costs: a general HTTP client
takes five to fifty times as long (design.md §4). It is an `asyncio.Protocol` around httptools' parser with
one future to wait on per exchange: no task, queue or stream object per request.

It leaves out what sandboxes do not need: TLS, proxies, redirects, cookies, decompression, pipelining,
upgrades. It has no time limit for replies, because a stream may be silent for as long as it likes. A request
body that is streamed is sent before the reply is waited for; a reply that comes earlier ends the sending at
its next chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import httptools

from cupola.drivers.base import Address
from cupola.errors import BadRequest, PayloadTooLarge, SandboxLost
from cupola.gateway.headers import Header, find

HIGH_WATER = 256 * 1024
"""Bytes of a reply that may wait for a slow reader before the sandbox is made to wait. As much as one read
takes."""

HEAD_LIMIT = 64 * 1024
"""Bytes of status line and headers. Servers in Python stop at 8 to 64 KiB of request headers; we are as
patient."""

IDLE_CONNECTIONS = 64
"""Open connections that are kept per sandbox. A session serves few requests at once."""

IDLE_SECONDS = 15.0
"""How long a connection may lie idle before it is not used again. Servers close theirs after 5 s and more."""

STALE_SECONDS = 1.0
"""A kept connection that its server had closed shows it at once. What is lost later was at work and runs only
once."""

_OURS = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding"})
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})

Body = bytes | AsyncIterator[bytes]


class _Stale(SandboxLost):
    """A connection kept open from an earlier exchange was closed before it said anything."""


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

    def __init__(self, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
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


class _Connection(asyncio.Protocol):
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

    def __init__(self, pool: _Pool, loop: asyncio.AbstractEventLoop) -> None:
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
        return _Stale(sentence) if self._used and soon and not self._head_bytes else SandboxLost(sentence)


class _Pool:
    """The open connections to one address."""

    __slots__ = ("address", "forgotten", "host", "idle", "open", "stale_seconds")

    def __init__(self, address: Address, stale_seconds: float) -> None:
        self.address = address
        self.stale_seconds = stale_seconds
        self.host = _host(address)
        self.idle: list[_Connection] = []
        self.open: set[_Connection] = set()
        self.forgotten = False

    def take(self, now: float) -> _Connection | None:
        """The connection used last, unless even that has been idle for too long."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if now - connection.idle_since <= IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def keep(self, connection: _Connection, now: float) -> None:
        if self.forgotten or len(self.idle) >= IDLE_CONNECTIONS:
            connection.abort()
            return
        connection.idle_since = now
        self.idle.append(connection)

    def drop(self, connection: _Connection) -> None:
        self.open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def close(self, error: SandboxLost) -> None:
        self.forgotten = True
        self.idle.clear()
        for connection in tuple(self.open):
            connection.lose(error)


class Upstream:
    """Carries requests to sandboxes over connections that it keeps open between them."""

    def __init__(self, *, connect_timeout: float = 5.0, stale_seconds: float = STALE_SECONDS) -> None:
        self._connect_timeout = connect_timeout
        self._stale_seconds = stale_seconds
        self._pools: dict[Address, _Pool] = {}

    async def request(
        self, address: Address, method: str, target: bytes, headers: Sequence[Header], body: Body
    ) -> Reply:
        """Sends one request and returns when the head of the reply, or all of it, is here.

        A body of bytes gets its content-length; a streamed one is sent in chunks, unless `headers` give its
        length. Raises `SandboxLost`, with code `sandbox_unreachable` when nothing was sent, so that nothing
        can have happened. Cancelling closes the connection.
        """
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = _Pool(address, self._stale_seconds)
        if not isinstance(body, bytes):
            # It cannot be sent twice: it goes over a connection that cannot be stale.
            length = find(headers, b"content-length")
            head = _head(method, target, pool.host, headers, length)
            connection = await self._connect(pool)
            return await connection.exchange_stream(method, head, body, None if length is None else int(length))

        framing = b"%d" % len(body) if body or method in _BODY_EXPECTED else b""
        message = _head(method, target, pool.host, headers, framing) + body
        idle = pool.take(asyncio.get_running_loop().time()) if pool.idle else None
        if idle is not None:
            try:
                return await idle.exchange(method, message)
            except _Stale:
                pass  # the server had closed it while it was idle: a fresh one will tell
        connection = await self._connect(pool)
        return await connection.exchange(method, message)

    async def forget(self, address: Address) -> None:
        """Ends all connections to a sandbox that is gone; exchanges that were open end with `SandboxLost`."""
        pool = self._pools.pop(address, None)
        if pool is not None:
            pool.close(SandboxLost("The agent's sandbox was stopped while it served this request."))

    async def aclose(self) -> None:
        """Ends all connections."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            pool.close(SandboxLost("The platform is stopping."))
        while any(pool.open for pool in pools):  # noqa: ASYNC110 - sockets are closed in the loop's next turn
            await asyncio.sleep(0)

    async def _connect(self, pool: _Pool) -> _Connection:
        loop = asyncio.get_running_loop()
        address = pool.address
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(pool, loop), address.host, address.port
                )
        except TimeoutError as error:
            raise SandboxLost(
                f"The agent's container did not accept a connection within {self._connect_timeout:g} s.",
                code="sandbox_unreachable",
            ) from error
        except OSError as error:
            raise SandboxLost(
                "The agent's container accepts no connections; it may have ended, its log says why.",
                code="sandbox_unreachable",
            ) from error
        return connection


def _head(method: str, target: bytes, host: bytes, headers: Sequence[Header], length: bytes | None) -> bytes:
    """Request line and headers. `length` is empty for no body and None for a body in chunks."""
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target), b"host: " + host]
    lines += [name + b": " + value for name, value in headers if name not in _OURS]
    if length is None:
        lines.append(b"transfer-encoding: chunked")
    elif length:
        lines.append(b"content-length: " + length)
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b" " in target:
        raise BadRequest("A header or the path of the request contains a line break or a blank.")
    return head


def _host(address: Address) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}".encode("ascii")


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
