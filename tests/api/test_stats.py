"""The statistics of an agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.identity import Role
from cupola.timings import SessionStart, Timing
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform

STATS = "/cupola/projects/demo/agents/a1/stats"


async def fine(sandbox: FakeSandbox, request: Request) -> Reply:
    return Reply(200, {"content-type": "application/json"}, b"{}")


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    async with open_platform(tmp_path, Behaviour(handler=fine)) as under_test:
        await under_test.create_version()
        yield under_test


def took(platform: PlatformUnderTest, response_ms: float, *, version: str = "1", age: float = 0, cold: bool = False,
         status: int = 200, protocol: str = "responses") -> None:  # fmt: skip
    """One request, as the edge would have measured it."""
    start, readiness = (100.0, 300.0) if cold else (0.0, 0.0)
    platform.platform.timekeeper.keep(
        Timing(
            "demo", "a1", version, "s", "r", protocol, SessionStart.COLD if cold else SessionStart.WARM, status,
            platform.clock.now - age, 0.0, start, readiness, response_ms, start + readiness + response_ms, 1000.0,
        )
    )  # fmt: skip


@pytest.mark.operation("cupola.stats")
async def test_percentiles_by_version_and_start_type(platform: PlatformUnderTest) -> None:
    """What waits to be written counts as well; parts are shown as shares of all the time."""
    for milliseconds in range(1, 101):
        took(platform, milliseconds)
    took(platform, 100, version="2", cold=True, status=424, protocol="invocations")
    shown = (await platform.call("GET", STATS)).json()
    assert (shown["requests"], shown["errors"]) == (101, 1)
    warm, cold = shown["starts"]
    assert (warm["version"], warm["start_type"], warm["count"], warm["errors"]) == ("1", "warm", 100, 0)
    assert warm["response_begin_ms"] == {"p50": 50, "p90": 90, "p99": 99}
    assert warm["shares"]["container_response"] == 1
    assert (cold["version"], cold["start_type"], cold["count"], cold["errors"]) == ("2", "cold", 1, 1)
    assert cold["infra_setup_ms"]["p50"] == 100
    assert cold["shares"] == {
        "platform_preprocessing": 0, "infra_setup": 0.2, "container_readiness": 0.6, "container_response": 0.2
    }  # fmt: skip
    assert [(one["protocol"], one["count"]) for one in shown["protocols"]] == [("invocations", 1), ("responses", 100)]


async def test_since_and_version_choose(platform: PlatformUnderTest) -> None:
    """A day unless told otherwise."""
    for age in (0, 7200, 2 * 86_400):
        took(platform, 1, age=age)
    took(platform, 1, version="2")
    for query, requests in (("", 3), ("?since=1h", 2), ("?since=7d", 4), ("?since=1h&version=2", 1), ("?version=3", 0)):
        assert (await platform.call("GET", STATS + query)).json()["requests"] == requests, query


async def test_more_than_one_read_holds_them_all(platform: PlatformUnderTest) -> None:
    """They are read some at a time, and requests of the same instant are not lost at the seam."""
    for _ in range(2500):
        took(platform, 1)
    assert (await platform.call("GET", STATS)).json()["requests"] == 2500


async def test_real_requests_are_counted(platform: PlatformUnderTest) -> None:
    """From the edge to the numbers."""
    path = f"{PROJECT}/agents/a1/endpoint/protocols/invocations?agent_session_id=s1"
    for _ in range(3):
        assert (await platform.call("POST", path, {})).status == 200
    shown = (await platform.call("GET", STATS)).json()
    assert (shown["requests"], shown["errors"]) == (3, 0)


@pytest.mark.parametrize("since", ["yesterday", "0h", "1.5h"])
async def test_a_bad_since_gets_a_sentence(platform: PlatformUnderTest, since: str) -> None:
    """It names what would do."""
    answer = await platform.call("GET", f"{STATS}?since={since}")
    assert (answer.status, answer.error["param"]) == (400, "since")
    assert "24h" in answer.error["message"]


async def test_readers_may_look_and_unknown_agents_are_not_there(platform: PlatformUnderTest) -> None:
    """It says nothing of what was said."""
    reader = platform.caller("ann", Role.READER)
    assert (await reader("GET", STATS)).status == 200
    assert (await reader("GET", STATS.replace("a1", "a2"))).status == 404


async def test_a_new_agent_of_the_name_begins_without_them(platform: PlatformUnderTest) -> None:
    """They go with their agent."""
    took(platform, 1)
    platform.platform.timekeeper.write()
    assert (await platform.call("DELETE", f"{PROJECT}/agents/a1?force=true")).status == 200
    await platform.create_version()
    assert (await platform.call("GET", STATS)).json()["requests"] == 0
