"""When sandboxes rest, and when they must not. The test moves the clock."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cupola.sessions import SessionStatus
from cupola.store import sessions as session_rows
from tests.support.agents import slow
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform


async def later(platform: PlatformUnderTest, seconds: float) -> None:
    """Time passes, and the reaper comes by."""
    platform.clock.now += seconds
    await platform.platform.reaper.once()


async def test_idle_sandboxes_stop_and_come_back(platform: PlatformUnderTest) -> None:
    """After the time-out, not before; the session goes on with its home and id."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    home = next(live.row.home for live in platform.platform.sandboxes.live if live.row.session_id == "s")
    await later(platform, 899)
    assert len(platform.running()) == 2
    await later(platform, 1)
    assert platform.running() == []
    session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
    assert session is not None
    assert session.status(platform.clock.now) is SessionStatus.IDLE
    assert session.stopped_at == platform.clock.now
    assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"
    assert platform.sandbox.spec.home == home


async def test_activity_puts_it_off(platform: PlatformUnderTest) -> None:
    """The time counts from the last request."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await later(platform, 600)
    await platform.hear(agent_session_id="s")
    await later(platform, 600)
    assert [live.row.session_id for live in platform.platform.sandboxes.live if live.session] == ["s"]
    session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
    assert session is not None
    assert session.last_accessed_at == platform.clock.now - 600


async def test_an_open_request_is_never_cut(tmp_path: Path) -> None:
    """However long it is silent."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        path = f"{PROJECT}/agents/a1/endpoint/protocols/openai/responses"
        asking = asyncio.create_task(platform.call("POST", path, {"input": "x", "stream": True}, on_chunk=begun))
        await begun.wait()
        await later(platform, 100_000)
        assert len(platform.running()) == 1
        gate.set()
        assert b"response.completed" in (await asking).body
        await later(platform, 899)
        assert len(platform.running()) == 1
        await later(platform, 1)
        assert platform.running() == []


async def test_a_versions_own_time_out_wins(platform: PlatformUnderTest) -> None:
    """`session_configuration.idle_timeout_seconds`."""
    short: dict[str, Any] = {**DEFINITION, "session_configuration": {"idle_timeout_seconds": 120}}
    await platform.create_version("a1", short)
    await platform.create_version("a2")
    await later(platform, 120)
    assert [live.row.agent for live in platform.platform.sandboxes.live] == ["a2"]


async def test_a_warm_sandbox_that_nobody_wants_stops(platform: PlatformUnderTest) -> None:
    """With its home; the next session starts cold."""
    await platform.create_version()
    await later(platform, 900)
    assert platform.running() == []
    assert platform.place.homes == {}
    assert (await platform.ask()).status == 200


async def test_a_sandbox_that_ended_by_itself_is_buried(platform: PlatformUnderTest) -> None:
    """Without waiting for the next request."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    for sandbox in list(platform.place.sandboxes.values()):
        sandbox.exit(1)
    await later(platform, 1)
    assert platform.running() == []
    session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
    assert session is not None
    assert session.status(platform.clock.now) is SessionStatus.IDLE
    assert platform.place.homes.keys() == {session.home}


async def test_the_pass_comes_by_itself(tmp_path: Path) -> None:
    """As a loop, until it is cancelled; the clock decides, not the pass."""
    async with open_platform(tmp_path, slow(asyncio.Event()), idle_timeout=0.2) as platform:
        await platform.create_version()
        loop = asyncio.create_task(platform.platform.reaper.run())
        platform.clock.now += 1
        async with asyncio.timeout(5):
            while platform.running():
                await asyncio.sleep(0.02)
        loop.cancel()
        await asyncio.wait([loop])


async def idle_for_long(platform: PlatformUnderTest) -> None:
    """A session `s` whose sandbox may be stopped, and nothing else that runs."""
    await platform.hear(agent_session_id="s")
    await later(platform, 800)
    platform.clock.now += 899
    assert len([live for live in platform.platform.sandboxes.live if live.session]) == 1


@pytest.mark.parametrize("first", ["the reaper", "the request"])
async def test_a_request_is_served_however_it_meets_the_reaper(platform: PlatformUnderTest, first: str) -> None:
    """At every turn of the loop between the decision to stop and the end of the stop: it waits, and is answered.

    One container at a time, and none that was asked before it ended was left without having answered.
    """
    await platform.create_version()
    resumed = 0
    for turns in range(60):
        await idle_for_long(platform)
        starts = platform.place.starts["s"]
        platform.clock.now += 1
        conversation = await platform.conversation()  # binding it lets others run between look-up and sending
        asking = partial(platform.ask, agent_session_id="s", stream=True, conversation=conversation)
        (live,) = [live for live in platform.platform.sandboxes.live if live.session]
        pass_over = partial(platform.platform.reaper._stop, live)  # without what a pass writes before it decides
        early, late = (pass_over, asking) if first == "the reaper" else (asking, pass_over)
        one = asyncio.create_task(early())
        for _ in range(turns):
            await asyncio.sleep(0)
            assert sum(box.spec.labels["cupola.session"] == "s" for box in platform.place.sandboxes.values()) <= 1
        other = asyncio.create_task(late())
        answers = [answer for answer in await asyncio.gather(one, other) if answer is not None]
        assert [answer.status for answer in answers] == [200]
        assert b"response.completed" in answers[0].body
        resumed += platform.place.starts["s"] - starts
        assert sum(box.abandoned for box in platform.place.sandboxes.values()) == 0
    assert resumed  # else the two have never met


@pytest.mark.parametrize("jump", [8 * 3600.0, -8 * 3600.0])
async def test_a_jump_of_the_clock_reaps_nobody(platform: PlatformUnderTest, jump: float) -> None:
    """A laptop that slept, a clock set right: what was used a minute ago was; the time-out goes on from there."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await later(platform, 60)
    platform.clock.jump += jump
    await later(platform, 5)
    await platform.hear(agent_session_id="t")
    await later(platform, 834)
    assert sorted(live.row.session_id for live in platform.platform.sandboxes.live if live.session) == ["s", "t"]
    await later(platform, 1)
    assert [live.row.session_id for live in platform.platform.sandboxes.live if live.session] == ["t"]
    shown = (await platform.call("GET", f"{PROJECT}/agents/a1/endpoint/sessions/s")).json()
    assert shown["stopped_at"] == int(platform.clock.wall())


async def test_what_the_platform_and_onlookers_do_is_no_activity(platform: PlatformUnderTest) -> None:
    """Getting, listing, and the passes themselves leave the time-out alone."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    for _ in range(9):
        await later(platform, 100)
        for path in ("", "/s"):
            await platform.call("GET", f"{PROJECT}/agents/a1/endpoint/sessions{path}")
    assert platform.running() == []
