"""The client that talks to sandboxes, against servers that behave, and servers that do not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from cupola.drivers.base import Address
from cupola.errors import BadRequest, PayloadTooLarge, SandboxLost
from cupola.gateway.upstream import HEAD_LIMIT, HIGH_WATER, IDLE_SECONDS, Reply, Upstream
from tests.gateway.scripted import (
    EVENTS,
    LAST_CHUNK,
    Connection,
    Sandbox,
    answering,
    chunk,
    ok,
    pieces,
    until,
)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    client = Upstream()
    yield client
    await client.aclose()


async def get(upstream: Upstream, sandbox: Sandbox, method: str = "GET") -> Reply:
    return await upstream.request(sandbox.address, method, b"/", [], b"")


async def test_a_small_reply_is_complete_at_once(upstream: Upstream) -> None:
    """Status, headers in lower case and the whole body are there when `request` returns."""
    async with answering(ok(b"hello", b"Content-Type: text/plain")) as sandbox:
        reply = await get(upstream, sandbox)
        assert (reply.status, reply.complete) == (200, b"hello")
        assert reply.headers == [(b"content-length", b"5"), (b"content-type", b"text/plain")]
        assert await reply.read() == b"hello"
        assert reply.complete is None


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


@pytest.mark.parametrize("parts", [(b"abc",), (b"abcdefg",)])
async def test_a_streamed_body_of_another_length(upstream: Upstream, parts: tuple[bytes]) -> None:
    """A body shorter or longer than its content-length is refused, and the connection closed."""

    async def script(connection: Connection) -> None:
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        with pytest.raises(BadRequest, match="content-length"):
            await upstream.request(sandbox.address, "PUT", b"/", [(b"content-length", b"6")], pieces(*parts))
        await sandbox.connections[0].left.wait()


async def test_a_reply_before_the_body_has_ended(upstream: Upstream) -> None:
    """A refusal that comes early ends the sending, and the connection is not used again."""

    async def script(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.say(ok(b"no", status=b"413 Too Large"))
        await connection.until_left()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    async with Sandbox(script) as sandbox:
        reply = await upstream.request(sandbox.address, "PUT", b"/", [], endless())
        assert (reply.status, await reply.read()) == (413, b"no")
        await sandbox.connections[0].left.wait()


async def test_a_slow_sandbox_slows_the_sending(upstream: Upstream) -> None:
    """A body is not taken faster than the sandbox reads it."""
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can read as well
        await go_on.wait()
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]  # it can read as well
        await connection._chunks()
        await connection.say(ok())

    taken = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(400):
            taken += 1
            yield b"x" * 65536

    async with Sandbox(script) as sandbox:
        request = asyncio.create_task(upstream.request(sandbox.address, "PUT", b"/", [], large()))
        seen = -1
        while seen != taken:
            seen = taken
            await asyncio.sleep(0.02)
        assert taken < 400
        go_on.set()
        assert (await request).status == 200
    assert taken == 400


async def test_chunks_come_as_they_are_written(upstream: Upstream) -> None:
    """Each piece can be read before the next one is written, and the end ends the iteration."""
    read = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        for part in (b"one", b"two"):
            await connection.say(chunk(part))
            await read.wait()
            read.clear()
        await connection.say(LAST_CHUNK)
        await connection.request()
        await connection.say(ok())

    async with Sandbox(script) as sandbox:
        reply = await get(upstream, sandbox)
        assert reply.complete is None
        parts = []
        async for part in reply:
            parts.append(part)
            read.set()
        assert parts == [b"one", b"two"]
        assert reply.at_end
        assert (await get(upstream, sandbox)).complete == b"hello"
        assert len(sandbox.connections) == 1


async def test_trailers_and_information_are_no_reply(upstream: Upstream) -> None:
    """1xx answers before a reply and trailers after it are read over."""
    early = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    body = EVENTS + chunk(b"all") + b"0\r\nx-sum: 1\r\n\r\n"
    async with answering(early + body, ok()) as sandbox:
        reply = await get(upstream, sandbox)
        assert (reply.status, await reply.read()) == (200, b"all")
        assert b"link" not in dict(reply.headers)
        assert b"x-sum" not in dict(reply.headers)
        assert (await get(upstream, sandbox)).complete == b"hello"
        assert len(sandbox.connections) == 1


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n"),
    ],
)
async def test_replies_without_a_body(upstream: Upstream, method: str, reply: bytes) -> None:
    """HEAD, 204 and 304 have no body, whatever their headers say."""
    async with answering(reply) as sandbox:
        for _ in range(2):
            assert (await get(upstream, sandbox, method)).complete == b""


async def test_a_body_that_ends_with_the_connection(upstream: Upstream) -> None:
    """Without length and chunks the reply ends where the connection does."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(b"HTTP/1.0 200 OK\r\n\r\nhello ")
        await connection.say(b"world")

    async with Sandbox(script) as sandbox:
        assert await (await get(upstream, sandbox)).read() == b"hello world"
        assert await (await get(upstream, sandbox)).read() == b"hello world"


async def test_connection_close_is_obeyed(upstream: Upstream) -> None:
    """A server that says `connection: close` gets a new connection for the next request."""
    async with answering(ok(b"a", b"connection: close")) as sandbox:
        for _ in range(2):
            assert (await get(upstream, sandbox)).complete == b"a"
        assert len(sandbox.connections) == 2


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


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 600 What\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ],
)
async def test_garbage(upstream: Upstream, garbage: bytes) -> None:
    """What is no HTTP/1.1 reply is a loss, with a sentence that tells it from silence."""
    async with answering(garbage) as sandbox:
        with pytest.raises(SandboxLost, match=r"not HTTP/1\.1"):
            await get(upstream, sandbox)


@pytest.mark.parametrize("end", [b"\r\n", b""])
async def test_too_many_headers(upstream: Upstream, end: bytes) -> None:
    """A head beyond the limit ends the exchange, whether or not it would ever end."""
    head = b"HTTP/1.1 200 OK\r\n" + b"x-large: %b\r\n" % (b"x" * 1000) * (HEAD_LIMIT // 1000 + 2)
    async with answering(head + end) as sandbox:
        with pytest.raises(SandboxLost):
            await get(upstream, sandbox)


async def test_more_than_was_asked_for(upstream: Upstream) -> None:
    """Bytes behind a reply are not taken for the next one's."""
    async with answering(ok(b"a") + ok(b"smuggled"), ok(b"b")) as sandbox:
        for _ in range(2):
            assert (await get(upstream, sandbox)).complete == b"a"
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


@pytest.mark.parametrize("cut", [EVENTS + chunk(b"one"), ok(b"one more")[:-5]])
async def test_lost_in_the_middle(upstream: Upstream, cut: bytes) -> None:
    """What came before the loss can be read; then the loss is raised."""
    gone = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(cut)
        await gone.wait()

    async with Sandbox(script) as sandbox:
        reply = await get(upstream, sandbox)
        assert await reply.next_chunk() == b"one"
        gone.set()
        with pytest.raises(SandboxLost, match="in the middle"):
            await reply.next_chunk()


async def test_closing_a_reply_halfway_shows(upstream: Upstream) -> None:
    """The sandbox sees its connection close when nobody wants the rest."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(b"one"))
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        reply = await get(upstream, sandbox)
        await reply.aclose()
        await asyncio.wait_for(sandbox.connections[0].left.wait(), 5)


async def test_cancelling_shows(upstream: Upstream) -> None:
    """The sandbox sees its connection close when a request is cancelled while it thinks."""
    asked = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        asked.set()
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        request = asyncio.create_task(get(upstream, sandbox))
        await asked.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(sandbox.connections[0].left.wait(), 5)


async def test_a_slow_reader_slows_the_sandbox(upstream: Upstream) -> None:
    """Not much more than the high-water mark is held for a reader that does not come."""
    size = 64 * 1024 * 1024
    written = 0

    async def script(connection: Connection) -> None:
        nonlocal written
        await connection.request()
        await connection.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await connection.say(b"x" * 65536)
            written += 65536
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        reply = await get(upstream, sandbox)
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.02)
        assert reply.waiting < 3 * HIGH_WATER
        assert written < size
        read = 0
        async for part in reply:
            read += len(part)
        assert read == size


async def test_reading_has_a_limit(upstream: Upstream) -> None:
    """`read` refuses a body that is larger than its reader can take."""
    async with answering(ok(b"x" * 100)) as sandbox:
        reply = await get(upstream, sandbox)
        with pytest.raises(PayloadTooLarge):
            await reply.read(limit=99)


async def test_patience(upstream: Upstream) -> None:
    """A silent reply gives None after the patience, again and again, and its bytes when they come."""
    speak = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        await speak.wait()
        await connection.say(chunk(b"late") + LAST_CHUNK)

    async with Sandbox(script) as sandbox:
        reply = await get(upstream, sandbox)
        assert [await reply.next_chunk(0.01) for _ in range(3)] == [None, None, None]
        speak.set()
        assert await reply.next_chunk(5) == b"late"
        assert await reply.next_chunk(5) == b""


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
