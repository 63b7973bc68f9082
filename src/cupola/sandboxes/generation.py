"""Which generation of the official adapters answers in a sandbox, learned from the sandbox itself.

A definition's protocol version is no evidence: the guide that most users follow declares `v1` for any image. Adapters
name themselves in `x-platform-server`; those from before that header say `ready` instead of `healthy`, as other
containers may too, so their second probe is looked at as well. Sources: container-contract.md §1 and §3.1.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson

from cupola.drivers.base import Address

_TIMEOUT = 2.0
_MAX_REPLY = 64 * 1024
_NAMED = re.compile(r"azure-ai-agentserver-(\w+)/(\S+)")


class Generation(StrEnum):
    """Adapters that understand the same calls, named by the protocol version that is theirs."""

    OLD = "v1"
    KEYS = "1.0.0"
    CURRENT = "2.0.0"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a probe. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def learn_generation(address: Address) -> Generation | None:
    """The generation of the adapter behind a ready sandbox; None for a container without one, or a silent one."""
    ready = await _get(address, "/readiness")
    if ready is None:
        return None
    named = named_generation(ready.headers.get("x-platform-server", ""))
    if named is not None or not _says_ready(ready):
        return named
    liveness = await _get(address, "/liveness")
    is_old = liveness is not None and liveness.status == 200 and not liveness.body
    return Generation.OLD if is_old else None


def named_generation(server: str) -> Generation | None:
    """What an `x-platform-server` header says.

    Packages are mixed freely: `responses` 1.0 runs on a newer `core`, and decides about its headers by itself.
    """
    packages = dict(_NAMED.findall(server))
    if not packages:
        return None
    version = packages.get("responses") or packages.get("core", "")
    early = version.startswith("1.") if "responses" in packages else version.startswith("2.0.0b")
    return Generation.KEYS if early else Generation.CURRENT


def _says_ready(reply: Reply) -> bool:
    try:
        return bool(orjson.loads(reply.body) == {"status": "ready"})
    except orjson.JSONDecodeError:
        return False


async def _get(address: Address, path: str) -> Reply | None:
    """One request on a connection of its own, which the sandbox closes; None for anything that is no answer."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n".encode())
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
