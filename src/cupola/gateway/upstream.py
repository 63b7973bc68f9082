"""The gateway's own HTTP/1.1 client, as thin as it can be.

Every call of every agent passes here, so this module, `connection` and `reply` are most of what the gateway
costs: a general HTTP client takes five to fifty times as long (design.md §4). Here it is decided over which
connection a request goes and whether it goes again, and the request's head is written.

It leaves out what sandboxes do not need: TLS, proxies, redirects, cookies, decompression, pipelining,
upgrades. It has no time limit for replies, because a stream may be silent for as long as it likes. A request
body that is streamed is sent before the reply is waited for; a reply that comes earlier ends the sending at
its next chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from cupola.drivers.base import Address
from cupola.errors import BadRequest, SandboxLost
from cupola.gateway.connection import Connection, Stale
from cupola.gateway.headers import Header, find
from cupola.gateway.reply import Reply

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


class _Pool:
    """The open connections to one address."""

    __slots__ = ("_loop", "address", "forgotten", "host", "idle", "open", "stale_seconds")

    def __init__(self, address: Address, stale_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.address = address
        self.stale_seconds = stale_seconds
        self.host = _host(address)
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()
        self.forgotten = False

    def take(self) -> Connection | None:
        """The connection used last, unless even that has been idle for too long."""
        idle = self.idle
        now = self._loop.time() if idle else 0.0
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if now - connection.idle_since <= IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection, now: float) -> None:
        if self.forgotten or len(self.idle) >= IDLE_CONNECTIONS:
            connection.abort()
            return
        connection.idle_since = now
        self.idle.append(connection)

    def drop(self, connection: Connection) -> None:
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
            pool = self._pools[address] = _Pool(address, self._stale_seconds, asyncio.get_running_loop())
        if not isinstance(body, bytes):
            # It cannot be sent twice: it goes over a connection that cannot be stale.
            length = find(headers, b"content-length")
            head = _head(method, target, pool.host, headers, length)
            connection = await self._connect(pool)
            return await connection.exchange_stream(method, head, body, None if length is None else int(length))

        framing = b"%d" % len(body) if body or method in _BODY_EXPECTED else b""
        message = _head(method, target, pool.host, headers, framing) + body
        idle = pool.take()
        if idle is not None:
            try:
                return await idle.exchange(method, message)
            except Stale:
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

    async def _connect(self, pool: _Pool) -> Connection:
        loop = asyncio.get_running_loop()
        address = pool.address
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(lambda: Connection(pool, loop), address.host, address.port)
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
