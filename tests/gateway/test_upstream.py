"""The client that talks to sandboxes: what it sends, over which connection, and when it sends again."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from cupola.drivers.base import Address
from cupola.errors import BadRequest, SandboxLost
from cupola.gateway.upstream import IDLE_SECONDS, Upstream
from tests.gateway.scripted import EVENTS, Connection, Sandbox, answering, get, ok, pieces, until


async def test_connections_are_used_again(upstream: Upstream) -> None:
    """One after the other, requests take one connection; Nagle's algorithm is off on it."""
    async with answering(ok()) as sandbox:
        for _ in range(3):
            assert (await get(upstream, sandbox)).complete == b"hello"
        assert len(sandbox.connections) == 1
        (connection,) = upstream._pools[sandbox.address].idle
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_what_is_sent(upstream: Upstream) -> None:
    """The request line, our host and length, the given headers, the body; nothing twice."""
    heard: list[tuple[bytes, bytes]] = []

    async def script(connection: Connection) -> None:
        heard.append(await connection.request())
        await connection.say(ok())

    async with Sandbox(script) as sandbox:
        given = [(b"content-type", b"text/plain"), (b"content-length", b"99"), (b"host", b"evil")]
        await upstream.request(sandbox.address, "POST", b"/a?b=c", given, b"body")
        port = sandbox.address.port
    assert heard == [
        (
            b"POST /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: text/plain\r\n"
            b"content-length: 4\r\n\r\n" % port,
            b"body",
        )
    ]


async def test_an_empty_post_says_so(upstream: Upstream) -> None:
    """A POST without a body has length 0; a GET has no length at all."""
    heads: list[bytes] = []

    async def script(connection: Connection) -> None:
        for _ in range(2):
            heads.append((await connection.request())[0])
            await connection.say(ok())

    async with Sandbox(script) as sandbox:
        await get(upstream, sandbox, "POST")
        await get(upstream, sandbox)
    assert [b"content-length: 0" in head for head in heads] == [True, False]


@pytest.mark.parametrize(
    ("headers", "framing"),
    [([], b"transfer-encoding: chunked"), ([(b"content-length", b"6")], b"content-length: 6")],
)
async def test_a_streamed_body(upstream: Upstream, headers: list[tuple[bytes, bytes]], framing: bytes) -> None:
    """A body in pieces goes in chunks, or under the length that its headers give."""
    heard: list[tuple[bytes, bytes]] = []

    async def script(connection: Connection) -> None:
        heard.append(await connection.request())
        await connection.say(ok())

    async with Sandbox(script) as sandbox:
        reply = await upstream.request(sandbox.address, "PUT", b"/", headers, pieces(b"abc", b"", b"def"))
        assert reply.status == 200
    head, body = heard[0]
    assert framing in head
    assert body == b"abcdef"


async def test_a_stale_connection_is_replaced(upstream: Upstream) -> None:
    """A kept connection that closes at the next request is tried once more on a fresh one."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(ok(b"%d" % connection.number))
        await connection.request()
        connection.reset()

    async with Sandbox(script) as sandbox:
        assert (await get(upstream, sandbox)).complete == b"1"
        reply = await upstream.request(sandbox.address, "POST", b"/", [], b"again")
        assert reply.complete == b"2"


async def test_only_one_more_try(upstream: Upstream) -> None:
    """When the fresh connection closes too, the sandbox is lost."""

    async def script(connection: Connection) -> None:
        await connection.request()
        if connection.number == 1:
            await connection.say(ok())
            await connection.request()
        connection.reset()

    async with Sandbox(script) as sandbox:
        await get(upstream, sandbox)
        with pytest.raises(SandboxLost, match="before it answered"):
            await get(upstream, sandbox)
        assert len(sandbox.connections) == 2


async def test_a_request_that_was_at_work_runs_only_once() -> None:
    """A kept connection that is lost later than stale ones show themselves is not tried again."""
    upstream = Upstream(stale_seconds=0.0)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(ok())
        await connection.request()
        connection.reset()

    async with Sandbox(script) as sandbox:
        await get(upstream, sandbox)
        with pytest.raises(SandboxLost):
            await get(upstream, sandbox)
        assert len(sandbox.connections) == 1
    await upstream.aclose()


async def test_a_connection_closed_while_idle_is_dropped(upstream: Upstream) -> None:
    """What the server closes between requests leaves the pool."""
    async with answering(ok()) as sandbox:
        await get(upstream, sandbox)
        sandbox.connections[0].reset()
        await until(lambda: not upstream._pools[sandbox.address].idle)
        assert (await get(upstream, sandbox)).complete == b"hello"


async def test_idle_for_too_long(upstream: Upstream) -> None:
    """A connection that has been idle beyond its time is not used again."""
    async with answering(ok()) as sandbox:
        await get(upstream, sandbox)
        upstream._pools[sandbox.address].idle[0].idle_since -= IDLE_SECONDS + 1
        await get(upstream, sandbox)
        assert len(sandbox.connections) == 2


async def test_nothing_listens(upstream: Upstream) -> None:
    """A refused connection says that nothing was sent."""
    async with answering(ok()) as sandbox:
        address = sandbox.address
    with pytest.raises(SandboxLost, match="accepts no connections") as caught:
        await upstream.request(address, "POST", b"/", [], b"x")
    assert caught.value.code == "sandbox_unreachable"
    assert str(address.port) not in caught.value.message


async def test_nobody_accepts() -> None:
    """A connection that is not made within the time limit says so."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address("127.0.0.1", full.getsockname()[1])
        impatient = Upstream(connect_timeout=0.05)
        with ExitStack() as waiting:
            for _ in range(3):
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex((address.host, address.port))
            with pytest.raises(SandboxLost, match=r"within 0\.05 s"):
                await impatient.request(address, "GET", b"/", [], b"")
        await impatient.aclose()


async def test_forgetting_ends_what_is_open(upstream: Upstream) -> None:
    """When a sandbox is stopped, its open exchanges end with a loss, and its connections close."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(ok() if connection.number == 1 else EVENTS)
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        await get(upstream, sandbox)
        silent = await upstream.request(sandbox.address, "PUT", b"/", [], pieces())
        waiting = asyncio.create_task(silent.next_chunk())
        await upstream.forget(sandbox.address)
        with pytest.raises(SandboxLost, match="stopped"):
            await waiting
        for connection in sandbox.connections:
            await asyncio.wait_for(connection.left.wait(), 5)
        await upstream.forget(sandbox.address)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/ HTTP/1.1\r\nx: y", []),
        (b"/a b", []),
        (b"/", [(b"x-agent-user-id", b"a\r\nx-admin: yes")]),
        (b"/", [(b"x-agent-user-id", b"a\nb")]),
    ],
)
async def test_no_header_smuggles_another(
    upstream: Upstream, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """A line break in what goes into the request's head is refused before anything is sent."""
    async with answering(ok()) as sandbox:
        with pytest.raises(BadRequest):
            await upstream.request(sandbox.address, "GET", target, headers, b"")
        assert not sandbox.connections
