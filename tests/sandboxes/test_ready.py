"""One running sandbox per session, its home, and what is told when it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.sessions import SessionStatus
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from tests.support.agents import ECHO
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform


async def session_status(platform: PlatformUnderTest, session: str) -> SessionStatus | None:
    found = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", session))
    return None if found is None else found.status(platform.clock.now)


async def rows(platform: PlatformUnderTest) -> list[str]:
    return [row.id for row in await platform.store.read(sandbox_rows.all_sandboxes)]


async def test_a_start_leaves_a_row_and_a_ready_session(platform: PlatformUnderTest) -> None:
    """What runs is what the store names."""
    await platform.create_version()
    assert await rows(platform) == platform.running()
    await platform.hear(agent_session_id="s")
    assert sorted(await rows(platform)) == sorted(platform.running())
    assert await session_status(platform, "s") is SessionStatus.ACTIVE


async def test_a_failed_start_leaves_nothing(platform: PlatformUnderTest) -> None:
    """No sandbox, no row; the session says that it failed, and works again later."""
    await platform.create_version()
    platform.place.behaviour = Behaviour(exit_code=3)
    assert (await platform.ask(agent_session_id="s")).status == 424
    assert await session_status(platform, "s") is SessionStatus.FAILED
    assert sorted(await rows(platform)) == sorted(platform.running())
    assert len(platform.running()) == 1
    platform.place.behaviour = ECHO
    assert (await platform.ask(agent_session_id="s")).status == 200
    assert await session_status(platform, "s") is SessionStatus.ACTIVE


async def test_sandboxes_carry_their_owners_labels(platform: PlatformUnderTest) -> None:
    """Installation, project, agent, version, session and sandbox."""
    await platform.create_version()
    session = (await platform.hear())["agent_session_id"]
    labels = platform.sandbox.spec.labels
    assert labels["cupola.installation"] == platform.installation.id
    assert (labels["cupola.project"], labels["cupola.agent"], labels["cupola.version"]) == ("demo", "a1", "1")
    assert labels["cupola.session"] == session
    assert platform.sandbox.spec.cpu == 1
    assert platform.sandbox.spec.memory == 2 * 1024**3


async def test_a_home_outlives_its_sandboxes(tmp_path: Path) -> None:
    """Files written before a crash and before a stop are there afterwards; another session has its own."""

    async def count(sandbox: FakeSandbox, request: Request) -> Reply:
        sandbox.files["n"] = b"%d" % (int(sandbox.files.get("n", b"0")) + 1)
        return Reply(200, {}, sandbox.files["n"])

    async with open_platform(tmp_path, Behaviour(handler=count)) as platform:
        await platform.create_version()

        async def call(session: str) -> bytes:
            path = f"{PROJECT}/agents/a1/endpoint/protocols/invocations?agent_session_id={session}"
            return (await platform.call("POST", path, {})).body

        assert await call("s") == b"1"
        for live in platform.platform.sandboxes.live:
            if live.row.session_id == "s":
                platform.place.sandboxes[live.row.id].exit(1)
        assert await call("s") == b"2"
        platform.clock.now += 901
        await platform.platform.reaper.once()
        assert platform.running() == []
        assert await call("s") == b"3"
        assert await call("t") == b"1"


async def test_an_adopted_warm_sandbox_brings_its_home(platform: PlatformUnderTest) -> None:
    """What it wrote at its start is in the session's home later."""
    await platform.create_version()
    platform.sandbox.files["made at start"] = b"x"
    session = (await platform.hear())["agent_session_id"]
    platform.clock.now += 901
    await platform.platform.reaper.once()
    await platform.hear(agent_session_id=session)
    assert platform.sandbox.files == {"made at start": b"x"}


async def test_concurrent_stops_are_one(platform: PlatformUnderTest) -> None:
    """However many want it gone."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    (live,) = [live for live in platform.platform.sandboxes.live if live.row.session_id == "s"]
    await asyncio.gather(*(platform.platform.sandboxes.stops.stop(live, "test") for _ in range(5)))
    assert platform.place.stops["s"] == 1
    assert await session_status(platform, "s") is SessionStatus.IDLE


async def test_a_request_during_the_stop_waits_and_starts_anew(tmp_path: Path) -> None:
    """A session never has two sandboxes."""
    most = 0

    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        (live,) = [live for live in platform.platform.sandboxes.live if live.row.session_id == "s"]

        def sandboxes_of_s() -> int:
            return sum(one.spec.labels["cupola.session"] == "s" for one in platform.place.sandboxes.values())

        stopping = asyncio.create_task(platform.platform.sandboxes.stops.stop(live, "test"))
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        while not asking.done():
            most = max(most, sandboxes_of_s())
            await asyncio.sleep(0)
        await stopping
        assert (await asking).status == 200
        assert most == 1
        assert platform.place.starts["s"] == 2


async def test_the_platform_stops_everything(tmp_path: Path) -> None:
    """Sandboxes end, sessions sleep, warm ones are forgotten; the next start finds order."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        await platform.platform.sandboxes.stop_all(0)
        assert platform.running() == []
        assert await rows(platform) == []
        assert await session_status(platform, "s") is SessionStatus.IDLE
        assert len(platform.place.homes) == 1


async def test_a_stubborn_sandbox_is_killed(tmp_path: Path) -> None:
    """After the grace."""
    async with open_platform(tmp_path, Behaviour(stubborn=True, handler=ECHO.handler)) as platform:
        await platform.create_version("a1", DEFINITION)
        await platform.platform.sandboxes.stop_all(0.05)
        assert platform.running() == []
