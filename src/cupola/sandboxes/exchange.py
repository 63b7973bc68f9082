"""One question of the platform's own to a sandbox, on a connection of its own.

What is asked may not be an official adapter, nor speak HTTP at all: whatever is no answer is None, and the caller
decides what that means. Requests of callers go through `gateway/upstream` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from cupola.drivers.base import Address

_MAX_REPLY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(address: Address, method: str, path: str, timeout: float, body: bytes | None = None) -> Reply | None:
    """Asks, with `body` as JSON if there is one; None for anything that is no answer within `timeout` seconds."""
    head = [f"{method} {path} HTTP/1.1", "Host: sandbox", "Connection: close"]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write("\r\n".join([*head, "", ""]).encode() + (body or b""))
                return await _read(reader)
            finally:
                writer.close()
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
        return None


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = min(int(headers.get("content-length", "0")), _MAX_REPLY)
    _, _, status = head[0].partition(" ")
    return Reply(int(status[:3]), headers, await reader.readexactly(length))
