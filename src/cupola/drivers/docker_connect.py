"""Opens the first container engine that answers, and says why the others did not.

Where to look is decided in `docker_engine.py`; this is the part that talks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiodocker import Docker, DockerError

from cupola.drivers.docker_engine import (
    Candidate,
    EngineTraits,
    engine_traits,
    explain_connection,
    explain_no_engine,
    explain_unsupported,
    find_engines,
)
from cupola.errors import DriverUnavailable

CONNECT_TIMEOUT = 5.0
"""Seconds for an engine to say its version; a socket that takes longer belongs to one that hangs."""

ANSWER_TIMEOUT = 120.0
"""Seconds for any single answer of the engine but pulls and stops: disks of laptops can be that slow."""

FOLLOWING = aiohttp.ClientTimeout()
"""None: a sandbox may be silent for days."""

TRANSFER = aiohttp.ClientTimeout(sock_connect=ANSWER_TIMEOUT)
"""For an archive, which takes as long as it takes; the engine may think for long before it sends anything."""


async def open_engine(environ: Mapping[str, str], home: Path) -> tuple[Docker, EngineTraits]:
    """A client of the first engine that can be used, which the caller closes. Raises `DriverUnavailable`."""
    failures: list[tuple[Candidate, str]] = []
    for candidate in find_engines(environ, home):
        try:
            return await _open(candidate)
        except DriverUnavailable as error:
            failures.append((candidate, error.message))
    raise DriverUnavailable(explain_no_engine(failures))


async def read_traits(client: Docker) -> EngineTraits:
    return engine_traits(await client.version(), await client.system.info())


async def _open(candidate: Candidate) -> tuple[Docker, EngineTraits]:
    if reason := explain_unsupported(candidate):
        raise DriverUnavailable(reason)
    try:
        client = Docker(url=candidate.url, timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT))
    except ValueError as error:
        raise DriverUnavailable(str(error)) from error
    client.connector._limit = 0  # every sandbox that is followed holds a connection
    try:
        return client, await _check(client, candidate)
    except BaseException:
        await client.close()
        raise


async def _check(client: Docker, candidate: Candidate) -> EngineTraits:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            traits = await read_traits(client)
    except TimeoutError as error:
        raise DriverUnavailable(f"no answer within {CONNECT_TIMEOUT:.0f} s") from error
    except (DockerError, aiohttp.ClientError, ValueError) as error:
        raise DriverUnavailable(explain_connection(str(error))) from error
    if _is_elsewhere(candidate, traits):
        raise DriverUnavailable(
            "its sandboxes run on another machine and cannot reach this platform; use an engine here"
        )
    return traits


def _is_elsewhere(candidate: Candidate, traits: EngineTraits) -> bool:
    host = urlsplit(candidate.url).hostname or ""
    local = host in {"localhost", "::1"} or host.startswith("127.")
    return candidate.socket is None and not local and not traits.shares_kernel
