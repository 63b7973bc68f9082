"""The hooks by which a sandbox is given its session, against a small server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cupola.drivers.base import Address
from cupola.sandboxes.hooks import HookFailed, after_restore, before_snapshot


@asynccontextmanager
async def container(status: int, said: bytes = b"") -> AsyncIterator[tuple[Address, list[tuple[str, str, Any]]]]:
    """Answers everything alike; keeps request line, content type and body."""
    asked: list[tuple[str, str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        asked.append((first, headers["content-type"], body))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(said), said))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1]), asked


async def test_the_calls_are_those_of_the_contract() -> None:
    """container-contract.md §1: any object, then the session with what its environment differs in."""
    async with container(200) as (address, asked):
        await before_snapshot(address)
        await after_restore(address, "sbx-1", "my-session", "0" * 32)
    assert asked == [
        ("POST /_agent/before-snapshot HTTP/1.1", "application/json", {}),
        (
            "POST /_agent/after-restore HTTP/1.1",
            "application/json",
            {
                "session_context": {
                    "session_id": "my-session",
                    "restore_id": "sbx-1",
                    "session_env_overrides": {
                        "FOUNDRY_AGENT_SESSION_ID": "my-session",
                        "FOUNDRY_AGENT_SESSION_GUID": "0" * 32,
                    },
                }
            },
        ),
    ]


@pytest.mark.parametrize(("status", "absent"), [(404, True), (405, True), (501, True), (400, False), (500, False)])
async def test_a_refusal_says_what_was_answered(status: int, absent: bool) -> None:
    """And whether there is such a hook at all."""
    async with container(status, b'{"error": "no"}') as (address, _):
        with pytest.raises(HookFailed) as failed:
            await before_snapshot(address)
    assert (
        failed.value.message == f'The container answered POST /_agent/before-snapshot with {status}: {{"error": "no"}}.'
    )
    assert failed.value.absent is absent


async def test_no_answer_is_a_failure() -> None:
    """Of a container that is gone."""
    async with container(200) as (address, _):
        pass
    with pytest.raises(HookFailed, match="gave POST /_agent/after-restore no answer"):
        await after_restore(address, "sbx-1", "s", "0" * 32)
