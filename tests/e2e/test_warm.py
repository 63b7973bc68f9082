"""A burst of new sessions against a warm pool, on real sandboxes; prints what it saves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Server, Where, eventually

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
    warm = burst(server, [None] * BURST)
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
            f"\n{BURST} new sessions at once on {where.driver}: {warm:.2f} s from the pool, {cold:.2f} s cold "
            f"({cold / warm:.0f} times as long)"
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
    server.rest.post(own(server, "versions/1:warm"), json={"warm_pool": size}).raise_for_status()


def pool(server: Server) -> dict[str, int]:
    found: dict[str, int] = server.rest.get(own(server, "warm")).raise_for_status().json()["data"][0]
    return found


def own(server: Server, path: str) -> str:
    return f"https://localhost:{server.port}/cupola/projects/demo/agents/a1/{path}"
