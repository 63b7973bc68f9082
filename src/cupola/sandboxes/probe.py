"""Asking a sandbox whether it is ready: `GET /readiness`, until 200 or the deadline.

A tiny HTTP/1.1 exchange of its own, one connection a try: what is being diagnosed may speak no HTTP at all, and every
try becomes evidence. The pause grows from 5 to 100 ms, since a fast sandbox is up in 50 ms and a slow one in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cupola.agents import Probe
from cupola.drivers.base import Address, Life, Observation

_FIRST_PAUSE = 0.005
_LAST_PAUSE = 0.1
_GROWTH = 1.3
_LOOK_EVERY = 0.25
_CONNECT_TIMEOUT = 0.5
_KEPT = 20


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`ready` after a 200. Otherwise `observation` says what the driver saw last."""

    ready: bool
    probes: tuple[Probe, ...]
    observation: Observation


async def probe_once(address: Address, timeout: float) -> str:
    """The status of one `GET /readiness` (`"200"`), or in words why there was none.

    A sandbox that has ended takes its address with it, and connecting then hangs: it gets less time than the answer.
    """
    try:
        async with asyncio.timeout(min(timeout, _CONNECT_TIMEOUT)):
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        return "no connection in time"
    except ConnectionRefusedError:
        return "connection refused"
    except OSError as error:
        return f"connection failed: {error.strerror or error}"
    try:
        async with asyncio.timeout(timeout):
            writer.write(b"GET /readiness HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
    except TimeoutError:
        return "no answer in time"
    except (OSError, ValueError) as error:
        return f"connection broken: {error}"
    finally:
        writer.close()
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return "connection closed without an HTTP answer" if not line else "not an HTTP answer"
    return parts[1].decode()


async def probe_until_ready(
    address: Address, poll: Callable[[], Awaitable[Observation]], timeout: float
) -> ProbeResult:
    """Probes until 200, until the sandbox has ended, or for `timeout` seconds.

    Equal outcomes in a row are kept once, with the time of the first.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    pause = _FIRST_PAUSE
    looked = began
    probes: list[Probe] = []
    observation = Observation(Life.RUNNING)
    while True:
        remaining = began + timeout - clock()
        outcome = await probe_once(address, max(0.05, min(remaining, 5.0)))
        if not probes or probes[-1].outcome != outcome:
            probes.append(Probe(clock() - began, outcome))
        if outcome == "200":
            return ProbeResult(True, tuple(probes[-_KEPT:]), observation)
        now = clock()
        if now - looked >= _LOOK_EVERY or now - began >= timeout:
            looked = now
            observation = await poll()
            if observation.life is not Life.RUNNING:
                return ProbeResult(False, tuple(probes[-_KEPT:]), observation)
        if now - began >= timeout:
            return ProbeResult(False, tuple(probes[-_KEPT:]), observation)
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, _LAST_PAUSE)
