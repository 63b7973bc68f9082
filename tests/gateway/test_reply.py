"""A sandbox's answer as its reader has it: whole, piece by piece, given up, awaited in silence."""

from __future__ import annotations

import asyncio

import pytest

from cupola.errors import PayloadTooLarge
from cupola.gateway.upstream import Upstream
from tests.gateway.scripted import EVENTS, LAST_CHUNK, Connection, Sandbox, answering, chunk, get, ok


async def test_a_small_reply_is_complete_at_once(upstream: Upstream) -> None:
    """Status, headers in lower case and the whole body are there when `request` returns."""
    async with answering(ok(b"hello", b"Content-Type: text/plain")) as sandbox:
        reply = await get(upstream, sandbox)
        assert (reply.status, reply.complete) == (200, b"hello")
        assert reply.headers == [(b"content-length", b"5"), (b"content-type", b"text/plain")]
        assert await reply.read() == b"hello"
        assert reply.complete is None


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
