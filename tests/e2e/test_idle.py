"""Idle sandboxes stop and come back with their files; what is open is not idle."""

from __future__ import annotations

import time

import pytest

from .conftest import Server, Where, eventually

pytestmark = pytest.mark.e2e

IDLE_TIMEOUT = 1.0


def test_an_idle_sandbox_stops_and_resumes(server: Server, where: Where) -> None:
    """After the time-out neither platform nor machine has a sandbox; the session's next one has its files."""
    server.start(where, CUPOLA_IDLE_TIMEOUT=str(IDLE_TIMEOUT))
    server.deploy(where, "a1")
    first = server.invoke("a1", {})
    [running] = server.status()["running"]
    eventually(lambda: server.status()["sandboxes"] == 0, "an end of the idle sandbox")
    eventually(lambda: not where.running(server), "a machine without the idle sandbox")
    status = server.status()
    assert (status["sessions"], status["running"]) == (1, [])

    resumed = server.invoke("a1", {}, running["session"])
    assert resumed["calls"] == 2
    assert resumed["boot"] != first["boot"]


def test_an_open_stream_is_not_idle(server: Server, where: Where) -> None:
    """A stream that takes several time-outs comes to its end, and only then does its sandbox become idle."""
    server.start(where, CUPOLA_IDLE_TIMEOUT=str(IDLE_TIMEOUT))
    server.deploy(where, "a1")
    began = time.monotonic()
    seconds = 2.5 * IDLE_TIMEOUT
    with server.streaming("a1", seconds, "s1") as events:
        *_, last = events
    assert last["type"] == "response.completed"
    assert time.monotonic() - began > seconds
    eventually(lambda: server.status()["sandboxes"] == 0, "an end of the idle sandbox")
