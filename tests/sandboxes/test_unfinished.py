"""What an engine that was away, or a disk that was full, has left half done is ended while the platform goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from cupola.drivers.fake import Behaviour, FakeSandbox, Moment, Reply, Request
from cupola.sandboxes.unfinished import PASSES
from cupola.sessions import Session, SessionStatus
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from tests.support.agents import echo, response_body
from tests.support.platform import OPENAI, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


async def session(platform: PlatformUnderTest, name: str) -> Session | None:
    return await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", name))


async def status(platform: PlatformUnderTest, name: str) -> SessionStatus | None:
    found = await session(platform, name)
    return None if found is None else found.status(platform.clock.now)


async def change(platform: PlatformUnderTest, name: str, become: Callable[[Session], Session]) -> None:
    """What a broken-off step has left in the row."""
    found = await session(platform, name)
    assert found is not None
    row = become(found)
    await platform.store.write(lambda conn: session_rows.put_session(conn, row))


async def passes(platform: PlatformUnderTest, count: int = PASSES) -> None:
    for _ in range(count):
        await platform.platform.unfinished.once()


async def test_a_new_session_without_an_engine_has_failed_and_says_why(platform: PlatformUnderTest) -> None:
    """Its status does not say for ever that it comes up; when the engine is back it does."""
    await platform.create_version()
    platform.driver.away = True
    created = await platform.call("POST", SESSIONS, {"agent_session_id": "s"})
    assert created.status == 201
    async with asyncio.timeout(5):
        while await status(platform, "s") is SessionStatus.CREATING:
            await asyncio.sleep(0)
    shown = (await platform.call("GET", f"{SESSIONS}/s")).json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "driver_unavailable")
    platform.driver.away = False
    await wait_until(lambda: not platform.platform.sandboxes.runs(("demo", "a1", "s")))
    assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"


async def test_a_session_that_slept_sleeps_on_without_an_engine(platform: PlatformUnderTest) -> None:
    """The request is answered 503, may be tried again, and has changed nothing."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await platform.call("POST", f"{SESSIONS}/s:stop")
    platform.driver.away = True
    answer = await platform.ask(agent_session_id="s")
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "true")
    assert await status(platform, "s") is SessionStatus.IDLE


async def test_stopping_a_session_that_comes_up(tmp_path: Path) -> None:
    """It is idle then, and not creating for ever."""
    released = asyncio.Event()
    released.set()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START, released=released, handler=echo)) as platform:
        await platform.create_version()
        released.clear()
        await platform.call("POST", SESSIONS, {"agent_session_id": "s"})
        await wait_until(lambda: platform.place.starts["s"] == 1)
        assert (await platform.call("POST", f"{SESSIONS}/s:stop")).status == 204
        assert await status(platform, "s") is SessionStatus.IDLE


async def test_a_session_that_nobody_starts_sleeps(platform: PlatformUnderTest) -> None:
    """Only after several passes: between two steps of a start everything looks so for a moment."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await platform.call("POST", f"{SESSIONS}/s:stop")
    await change(platform, "s", lambda row: row.to_starting(platform.clock.now))
    await passes(platform, PASSES - 1)
    assert await status(platform, "s") is SessionStatus.CREATING
    await passes(platform, 1)
    assert await status(platform, "s") is SessionStatus.IDLE


async def test_what_is_under_way_is_left_alone(tmp_path: Path) -> None:
    """However many passes come by while a sandbox starts."""
    released = asyncio.Event()
    released.set()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START, released=released, handler=echo)) as platform:
        await platform.create_version()
        released.clear()
        asking = asyncio.create_task(platform.hear(agent_session_id="s"))
        await wait_until(lambda: platform.place.starts["s"] == 1)
        await passes(platform, 2 * PASSES)
        platform.clock.now += 1000
        await platform.platform.orphans.once()
        platform.clock.now += 1000
        await platform.platform.orphans.once()
        released.set()
        assert (await asking)["agent_session_id"] == "s"


async def test_a_deletion_goes_on_when_the_engine_is_back(platform: PlatformUnderTest) -> None:
    """Its caller was told that it did not work; sandbox, home and row go nevertheless."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    found = await session(platform, "s")
    assert found is not None
    platform.driver.away = True
    assert (await platform.call("DELETE", f"{SESSIONS}/s")).status == 503
    await passes(platform)
    assert found.home in platform.place.homes
    platform.driver.away = False
    await passes(platform)
    await passes(platform)
    assert await session(platform, "s") is None
    assert found.home not in platform.place.homes
    assert len(platform.running()) == 1


async def test_a_version_that_was_being_deleted_goes(platform: PlatformUnderTest) -> None:
    """With its sessions, without a restart."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    platform.driver.away = True
    assert (await platform.call("DELETE", f"{PROJECT}/agents/a1/versions/1?force=true")).status == 503
    platform.driver.away = False
    await passes(platform)
    await passes(platform)
    assert (await platform.call("GET", f"{PROJECT}/agents/a1/versions/1")).status == 404
    assert platform.running() == []
    assert platform.place.homes == {}


async def test_a_version_that_nobody_makes_is_made(platform: PlatformUnderTest) -> None:
    """As after a restart."""
    made = await platform.create_version()
    row = await platform.version_row("a1", made["version"])
    lost = type(row)(project="demo", agent="a1", version="2", definition=row.definition, created_at=row.created_at)
    await platform.store.write(lambda conn: agent_rows.put_version(conn, lost))
    await passes(platform)
    assert (await platform.settled("a1", "2"))["status"] == "active"


def in_progress(*, background: bool) -> Behaviour:
    """Says that it has begun, and when asked again that it has finished."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.method == "GET":
            body = {"id": request.path.rpartition("/")[2], "object": "response", "status": "completed", "output": []}
        else:
            body = response_body(request, "", "in_progress")
        return Reply(200, {"content-type": "application/json"}, orjson.dumps({**body, "background": background}))

    return Behaviour(handler=answer)


async def kept(platform: PlatformUnderTest, response_id: str) -> Any:
    return (await platform.call("GET", f"{OPENAI}/responses/{response_id}")).json()


async def test_a_response_that_nobody_carries_has_failed(tmp_path: Path) -> None:
    """Its last word could not be kept; the sandbox goes on."""
    async with open_platform(tmp_path, in_progress(background=False)) as platform:
        await platform.create_version()
        response = await platform.hear(agent_session_id="s")
        assert (await kept(platform, response["id"]))["status"] == "in_progress"
        await passes(platform)
        ended = await kept(platform, response["id"])
        assert ended["status"] == "failed"
        assert "keep" in ended["error"]["message"]
        assert len(platform.running()) == 2


async def test_a_response_of_a_sandbox_that_is_gone_has_failed(tmp_path: Path) -> None:
    """Also when its end could not be kept at the time."""
    async with open_platform(tmp_path, in_progress(background=False)) as platform:
        await platform.create_version()
        response = await platform.hear(agent_session_id="s")
        unfinished = await platform.store.read(lambda conn: response_rows.get_response(conn, "demo", response["id"]))
        assert unfinished is not None
        await platform.call("POST", f"{SESSIONS}/s:stop")
        await platform.store.write(lambda conn: response_rows.delete_response(conn, "demo", response["id"]))
        await platform.store.write(lambda conn: response_rows.save_response(conn, unfinished))
        await passes(platform)
        assert (await kept(platform, response["id"]))["status"] == "failed"


async def test_a_background_response_that_nobody_follows_is_followed(tmp_path: Path) -> None:
    """To its end."""
    async with open_platform(tmp_path, in_progress(background=True)) as platform:
        await platform.create_version()
        response = await platform.hear(agent_session_id="s", background=True)
        await platform.platform.background.aclose()
        (live,) = [live for live in platform.platform.sandboxes.live if live.session]
        live.background.clear()
        followed: list[str] = []
        platform.platform.unfinished._follow = lambda _, found: followed.append(found.id)
        await passes(platform)
        assert followed == [response["id"]]


async def test_a_row_that_serves_nobody_is_undone(platform: PlatformUnderTest) -> None:
    """With its sandbox, after the grace: an engine that was away could not be told to stop it."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    (live,) = [live for live in platform.platform.sandboxes.live if live.session]
    platform.platform.sandboxes.live.remove(live)
    await platform.platform.orphans.once()
    assert len(platform.running()) == 2
    platform.clock.now += platform.settings.orphan_grace
    await platform.platform.orphans.once()
    assert len(platform.running()) == 1
    assert [row.session for row in await platform.store.read(sandbox_rows.all_sandboxes)] == [None]


async def test_a_warm_sandbox_that_makes_room_takes_its_home_along(tmp_path: Path) -> None:
    """Nobody would know the home any more."""
    async with open_platform(tmp_path, Behaviour(handler=echo), max_sandboxes=1) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        found = await session(platform, "s")
        assert found is not None
        assert list(platform.place.homes) == [found.home]
