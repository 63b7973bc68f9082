"""When sandboxes rest, and when they must not. The test moves the clock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

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
