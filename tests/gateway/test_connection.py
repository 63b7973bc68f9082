"""One connection to a sandbox: replies that HTTP/1.1 allows, and servers that do not keep to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cupola.errors import BadRequest, SandboxLost
from cupola.gateway.connection import HEAD_LIMIT, HIGH_WATER
from cupola.gateway.upstream import Upstream
from tests.gateway.scripted import EVENTS, Connection, Sandbox, answering, chunk, get, ok, pieces


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
