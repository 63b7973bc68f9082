"""Streams are not held back on the way. No clock: what is killed in the middle cannot have been read to its end."""

from __future__ import annotations

import pytest

from .conftest import Server, Where

pytestmark = pytest.mark.e2e

A_LONG_TIME = 600
"""Seconds that the agent would go on; the test's own time-out is shorter."""


def test_events_come_while_the_agent_speaks(server: Server, where: Where) -> None:
    """The caller has the first events before the agent can have written the rest, which then never comes."""
    server.start(where)
    server.deploy(where, "a1")
    with server.streaming("a1", A_LONG_TIME, "s1") as events:
        first, second = next(events), next(events)
        for sandbox in where.running(server):
            where.kill(sandbox)
        *_, last = events
    assert first["type"] == "response.created"
    assert second["type"] != "response.completed"
    assert last["type"] == "response.failed"
