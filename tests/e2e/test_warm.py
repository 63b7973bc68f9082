"""A burst of new sessions against a warm pool, on real sandboxes; prints what it saves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.served import finish

from .conftest import AsCode, Server, Where, eventually

pytestmark = pytest.mark.e2e

BURST = 20


def test_a_burst_is_served_from_the_pool(server: Server, where: Where, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty at once, twenty waiting: all of them start warm, each in a sandbox of its own."""
    server.start(where, CUPOLA_MAX_SANDBOXES=str(BURST))  # no room to replace what is taken while that is measured
    server.deploy(where, "a1")
    resize(server, BURST)
    eventually(lambda: pool(server)["ready"] == BURST, "a full pool", patience=120)
    waiting = where.running(server)
    assert len(waiting) == BURST
    from_pool = burst(server, [None] * BURST)
    assert starts(server) == ["warm"] * BURST
    assert where.running(server) == waiting
    resize(server, 0)
    for one in server.status()["running"]:
        server.rest.delete(f"/agents/a1/endpoint/sessions/{one['session']}").raise_for_status()
    assert server.status()["sandboxes"] == 0
    cold = burst(server, [f"cold-{number}" for number in range(BURST)])
    assert starts(server) == ["cold"] * BURST
    with capsys.disabled():
        print(
            f"\n{BURST} new sessions at once on {where.driver}: {from_pool:.2f} s from the pool, {cold:.2f} s cold "
            f"({cold / from_pool:.0f} times as long)"
        )


def starts(server: Server) -> list[str]:
    return [one["start"] for one in server.status()["running"]]


def burst(server: Server, sessions: list[str | None]) -> float:
    """Seconds until all of them have their first answer."""
    with ThreadPoolExecutor(len(sessions)) as threads:
        began = time.monotonic()
        heard = list(threads.map(lambda session: server.invoke("a1", {}, session), sessions))
        took = time.monotonic() - began
    assert [one["calls"] for one in heard] == [1] * len(sessions)
    assert len({one["boot"] for one in heard}) == len(sessions)
    return took


def resize(server: Server, size: int) -> None:
    assert warm(server, "a1", str(size))["warm_pool"] == size


def pool(server: Server) -> dict[str, Any]:
    return warm(server, "a1")


def warm(server: Server, *arguments: str) -> dict[str, Any]:
    """What `cupola warm` says of the only version."""
    command = [sys.executable, "-m", "cupola", "warm", *arguments, "--output", "json", "--state-dir", str(server.state)]
    [found] = json.loads(finish(command))["data"]
    assert isinstance(found, dict)
    return found


def test_the_command_explains_itself(server: Server) -> None:
    """In lines for people, and in sentences where something cannot be."""
    server.start(AsCode())
    server.deploy(AsCode(), "a1")

    def cupola(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cupola", *arguments, "--state-dir", str(server.state)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert "a1:1  1 of 0 ready; for sessions without an id of their own" in cupola("warm", "a1").stdout
    assert cupola("warm", "a1", "2").returncode == 0
    eventually(lambda: "a1:1  2 of 2 ready" in cupola("warm", "a1").stdout, "a pool of two")
    assert "warm a1:1  2 of 2 ready" in cupola("status").stdout
    cupola("warm", "a1", "--default")
    assert pool(server)["wanted"] == 0
    missing = cupola("warm", "nobody")
    assert (missing.returncode, "Agent 'nobody' does not exist" in missing.stderr) == (5, True)
    version = cupola("warm", "a1", "1", "--version", "9")
    assert (version.returncode, "has no version '9'" in version.stderr) == (5, True)
    assert cupola("warm", "a1", "101").returncode == 2
    both = cupola("warm", "a1", "1", "--default")
    assert (both.returncode, both.stderr) == (5, "cupola: Give either a size or --default.\n")
