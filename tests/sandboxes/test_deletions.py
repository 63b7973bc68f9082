"""Deletions that an engine which is away, or a stop that waits out its grace, would keep from their end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cupola.sandboxes.unfinished import PASSES
from cupola.store import sessions as session_rows
from tests.support.agents import ECHO
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

AGENT = f"{PROJECT}/agents/a1"
SESSION = f"{AGENT}/endpoint/sessions/s"
VERSION = f"{AGENT}/versions/1"
DELETIONS = [SESSION, f"{VERSION}?force=true", f"{AGENT}?force=true"]


async def begin(platform: PlatformUnderTest) -> None:
    await platform.create_version()
    await platform.hear(agent_session_id="s")


async def home_of(platform: PlatformUnderTest) -> str:
    found = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
    assert found is not None
    return found.home


async def passes(platform: PlatformUnderTest) -> None:
    for _ in range(PASSES):
        await platform.platform.unfinished.once()


@pytest.mark.parametrize("path", DELETIONS)
async def test_nothing_is_deleted_whose_home_cannot_be_reached(platform: PlatformUnderTest, path: str) -> None:
    """The platform started while its engine was away: 503, everything is as it was, and later it is deleted."""
    await begin(platform)
    await platform.call("POST", f"{SESSION}:stop")
    home = await home_of(platform)
    platform.engine_gone = True
    await platform.restart()
    for _ in range(2):
        refused = await platform.call("DELETE", path)
        assert (refused.status, refused.error["code"]) == (503, "driver_unavailable")
    await passes(platform)
    assert (await platform.call("GET", SESSION)).json()["status"] == "idle"
    assert (await platform.call("GET", VERSION)).json()["status"] == "active"
    platform.engine_gone = False
    assert home in platform.place.homes
    assert (await platform.call("DELETE", path)).status in (200, 204)
    assert (await platform.call("GET", SESSION)).status == 404
    assert home not in platform.place.homes
    assert (await platform.call("GET", VERSION)).status == (200 if path == SESSION else 404)


async def test_an_interrupted_deletion_ends_once_the_engine_is_back(platform: PlatformUnderTest) -> None:
    """Also when the platform was started again meanwhile, without the engine."""
    await begin(platform)
    platform.driver.no_deletions = True
    assert (await platform.call("DELETE", SESSION)).status == 503
    homes = set(platform.place.homes)
    platform.engine_gone = True
    await platform.restart()
    await passes(platform)
    assert set(platform.place.homes) == homes
    platform.engine_gone = False
    await passes(platform)
    assert (await platform.call("GET", SESSION)).status == 404
    assert len(platform.place.homes) == len(homes) - 1


async def test_a_home_that_nobody_owns_goes_once_the_engine_is_back(platform: PlatformUnderTest) -> None:
    """The one that a restore has left, without another start of the platform."""
    own = "/cupola/projects/demo/agents/a1/sessions/s"
    await begin(platform)
    snapshot = (await platform.call("POST", f"{own}/snapshots", {})).json()["id"]
    before = len(platform.place.homes)
    platform.driver.no_deletions = True
    assert (await platform.call("POST", f"{own}:restore", {"snapshot": snapshot})).status == 200
    assert len(platform.place.homes) == before + 1
    platform.driver.no_deletions = False
    await passes(platform)
    assert len(platform.place.homes) == before


@pytest.mark.parametrize("path", DELETIONS)
async def test_a_deletion_cuts_short_the_stop_of_an_idle_session(tmp_path: Path, path: str) -> None:
    """Its container ignores SIGTERM, the grace is an hour, and the engine refuses homes in use."""
    async with open_platform(tmp_path, replace(ECHO, stubborn=True), idle_timeout=900) as platform:
        platform.platform._starter._stop_grace = 3600
        await begin(platform)
        (live,) = [live for live in platform.platform.sandboxes.live if live.session]
        platform.clock.now += 1000
        reaping = asyncio.create_task(platform.platform.reaper._stop(live))
        await wait_until(lambda: live.stopping)
        async with asyncio.timeout(10):
            assert (await platform.call("DELETE", path)).status in (200, 204)
            await reaping
        assert (await platform.call("GET", SESSION)).status == 404
        assert live.row.home not in platform.place.homes
