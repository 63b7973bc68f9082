"""Asking for readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cupola.drivers.base import Address, Life, Observation
from cupola.sandboxes.probe import probe_once, probe_until_ready

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RUNNING = Observation(Life.RUNNING)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Address]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


def saying(*answers: bytes) -> Script:
    """One answer per connection; the last one again and again."""
    left = list(answers)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return script


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def running() -> Observation:
    return RUNNING


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "200"),
        (b"HTTP/1.0 503 Later\r\n\r\n", "503"),
        (b"HTTP/1.1 204\r\n\r\n", "204"),
        (b"hello\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 OK\r\n", "not an HTTP answer"),
        (b"", "connection closed without an HTTP answer"),
        (b"x" * 100_000, "connection broken"),
    ],
)
async def test_one_probe(answer: bytes, outcome: str) -> None:
    """The status, or in words what came instead."""
    async with serving(saying(answer)) as address:
        assert (await probe_once(address, 5)).startswith(outcome)


async def test_nobody_listens() -> None:
    """A closed port is told from a silent one."""
    async with serving(silent) as address:
        assert await probe_once(address, 0.05) == "no answer in time"
    assert await probe_once(address, 1) == "connection refused"


async def test_ready_after_a_while() -> None:
    """Equal outcomes are kept once, in their order."""
    later, fine = b"HTTP/1.1 503 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"
    async with serving(saying(later, later, b"", fine)) as address:
        result = await probe_until_ready(address, running, 10)
    assert result.ready
    assert [probe.outcome for probe in result.probes] == ["503", "connection closed without an HTTP answer", "200"]
    assert result.probes[0].at <= result.probes[1].at <= result.probes[2].at


async def test_never_ready() -> None:
    """The time is kept, and the driver is asked before giving up."""
    async with serving(saying(b"HTTP/1.1 500 x\r\n\r\n")) as address:
        result = await probe_until_ready(address, running, 0.1)
    assert not result.ready
    assert [probe.outcome for probe in result.probes] == ["500"]
    assert result.observation == RUNNING


async def test_a_sandbox_that_ends_is_not_waited_for() -> None:
    """Long before the deadline."""
    gone = Observation(Life.EXITED, 1)

    async def poll() -> Observation:
        return gone

    async with serving(silent) as address:
        pass
    async with asyncio.timeout(5):
        result = await probe_until_ready(address, poll, 60)
    assert not result.ready
    assert result.observation == gone
