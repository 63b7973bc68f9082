"""What a platform finds after it was killed, and makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, ImageSource, SandboxSpec
from cupola.drivers.fake import Behaviour, FakeDriver, FakeSandbox, Moment, Reply, Request
from cupola.sessions import Observed, SessionStatus
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from tests.support.agents import ECHO, echo, response_body, slow
from tests.support.platform import DEFINITION, OPENAI, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

VERSIONS = f"{PROJECT}/agents/a1/versions"


async def rows(platform: PlatformUnderTest) -> list[str]:
    return [row.id for row in await platform.store.read(sandbox_rows.all_sandboxes)]


@contextlib.asynccontextmanager
async def under_way(request: Coroutine[Any, Any, Any]) -> Any:
    """A request of a caller whose connection ends with the platform."""
    task = asyncio.create_task(request)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_running_sandboxes_are_adopted(platform: PlatformUnderTest) -> None:
    """Those of sessions and warm ones: the same ones serve on, and nothing is started."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    before = sorted(platform.running())
    assert len(before) == 2
    started = platform.place.starts.total()
    await platform.restart()
    assert sorted(platform.running()) == before
    assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"
    assert (await platform.ask()).status == 200
    assert platform.place.starts.total() == started


async def test_what_was_stored_is_there(platform: PlatformUnderTest) -> None:
    """Versions, conversations with their session, finished responses."""
    await platform.create_version()
    conversation = await platform.conversation()
    first = await platform.hear("one", conversation=conversation)
    await platform.restart()
    assert (await platform.call("GET", f"{VERSIONS}/1")).json()["status"] == "active"
    kept = (await platform.call("GET", f"{OPENAI}/responses/{first['id']}")).json()
    assert kept["status"] == "completed"
    second = await platform.hear("two", conversation=conversation)
    assert second["agent_session_id"] == first["agent_session_id"]
    items = (await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items")).json()["data"]
    assert len(items) == 4


async def test_a_version_that_was_being_made_is_made(tmp_path: Path) -> None:
    """What was half made is undone first, whatever the step in which it was broken off."""
    for moment in Moment:
        released = asyncio.Event()
        behaviour = Behaviour(hangs=moment, released=released, handler=echo)
        async with open_platform(tmp_path / moment, behaviour) as platform:
            await platform.call("POST", VERSIONS, {"definition": DEFINITION})
            if moment is Moment.START:
                await wait_until(lambda: len(platform.running()) == 1)
            half_made = platform.running()
            await platform.crash()
            assert platform.running() == half_made
            released.set()
            await platform.open()
            assert (await platform.settled("a1", "1"))["status"] == "active"
            assert await rows(platform) == platform.running()
            assert not set(half_made) & set(platform.running())
            assert (await platform.ask()).status == 200


async def test_a_session_that_was_being_started_sleeps(tmp_path: Path) -> None:
    """Its half-made sandbox is gone, its home is not, and the next request starts it."""
    released = asyncio.Event()
    released.set()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START, released=released, handler=echo)) as platform:
        await platform.create_version()
        released.clear()
        async with under_way(platform.ask(agent_session_id="s")):
            await wait_until(lambda: platform.place.starts["s"] == 1)
            await platform.crash()
        assert len(platform.running()) == 2
        released.set()
        await platform.open()
        assert len(platform.running()) == 1
        session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
        assert session is not None
        assert session.status(platform.clock.now) is SessionStatus.IDLE
        assert session.home in platform.place.homes
        assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"


async def test_a_session_that_was_made_and_never_started_sleeps(platform: PlatformUnderTest) -> None:
    """Killed between the 201 and the start: it is there, and does not say for ever that it is being created."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    known = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s"))
    assert known is not None
    made = replace(known, id="new", guid="g", home="h", stopped_at=None, observed=Observed.NONE)
    await platform.store.write(lambda conn: session_rows.put_session(conn, made))
    await platform.restart()
    session = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "new"))
    assert session is not None
    assert session.status(platform.clock.now) is SessionStatus.IDLE
    assert (await platform.hear(agent_session_id="new"))["agent_session_id"] == "new"


async def test_a_response_that_was_running_has_failed(tmp_path: Path) -> None:
    """With the reason, although its sandbox was adopted: nobody listens to that stream any more."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        path = f"{OPENAI}/responses"
        async with under_way(platform.call("POST", path, {"input": "x", "stream": True}, on_chunk=begun)):
            await begun.wait()
            response_id = platform.sandbox.requests[-1].headers["x-agent-response-id"]
            running = platform.running()
        await platform.crash()
        await platform.open()
        assert platform.running() == running
        kept = (await platform.call("GET", f"{path}/{response_id}")).json()
        assert kept["status"] == "failed"
        assert "restarted" in kept["error"]["message"]


def in_background() -> Behaviour:
    """Answers at once that it has begun."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        body = orjson.dumps(response_body(request, "", "in_progress"))
        return Reply(200, {"content-type": "application/json"}, body)

    return Behaviour(handler=answer)


async def test_a_background_response_goes_on_in_its_adopted_sandbox(tmp_path: Path) -> None:
    """It stays in progress, and keeps its sandbox from being idle as it did before."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        await platform.restart()
        path = f"{OPENAI}/responses/{response['id']}"
        assert (await platform.call("GET", path)).json()["status"] == "in_progress"
        platform.clock.now += 5000
        await platform.platform.reaper.once()
        assert len(platform.running()) == 1


async def test_a_background_response_whose_sandbox_died_has_failed(tmp_path: Path) -> None:
    """Nobody is left to finish it."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        await platform.crash()
        platform.sandbox.exit(1)
        await platform.open()
        assert platform.running() == []
        kept = (await platform.call("GET", f"{OPENAI}/responses/{response['id']}")).json()
        assert kept["status"] == "failed"


async def test_dead_and_deaf_sandboxes_are_not_adopted(platform: PlatformUnderTest) -> None:
    """One that has ended, one that is not ready any more: both go, their sessions sleep."""
    await platform.create_version()
    for session in ("dead", "deaf", "well"):
        await platform.hear(agent_session_id=session)
    by_session = {one.spec.labels["cupola.session"]: one for one in platform.place.sandboxes.values()}
    await platform.crash()
    by_session["dead"].exit(1)
    by_session["deaf"].readiness = 503
    await platform.open()
    assert {live.row.session_id for live in platform.platform.sandboxes.live if live.session} == {"well"}
    for session in ("dead", "deaf"):
        assert (await platform.hear(agent_session_id=session))["agent_session_id"] == session


async def test_what_nobody_owns_is_removed(platform: PlatformUnderTest) -> None:
    """A sandbox of this installation without a row goes; one of another installation stays."""
    await platform.create_version()
    await platform.crash()
    for sandbox_id, installation in (("orphan", platform.installation.id), ("foreign", "another")):
        spec = SandboxSpec(
            sandbox_id=sandbox_id,
            source=ImageSource("agent:1"),
            environment={},
            cpu=1,
            memory=1,
            home=sandbox_id,
            labels={LABEL_INSTALLATION: installation, LABEL_SANDBOX: sandbox_id},
            ca_bundle=Path("none"),
        )
        async for _ in FakeDriver(platform.place, installation).start(spec):
            pass
    await platform.open()
    assert "orphan" not in platform.running()
    assert "foreign" in platform.running()
    assert len(platform.running()) == 2


async def test_a_deletion_that_was_broken_off_is_finished(tmp_path: Path) -> None:
    """A version that was being deleted is gone after the start, with its sessions and their homes."""
    async with open_platform(tmp_path, Behaviour(stubborn=True, handler=ECHO.handler)) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        platform.driver.killed = True  # the version is marked, and nothing that follows has an effect
        async with under_way(platform.call("DELETE", f"{VERSIONS}/1?force=true")) as deleting:
            await asyncio.wait([deleting])
            await platform.crash()
        assert len(platform.running()) == 2
        await platform.open()
        assert platform.running() == []
        assert platform.place.homes == {}
        assert (await platform.call("GET", f"{VERSIONS}/1")).status == 404
        assert await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s")) is None


async def test_twice_killed_is_once_recovered(platform: PlatformUnderTest) -> None:
    """Recovery may be broken off and begin again."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    before = sorted(platform.running())
    for _ in range(3):
        await platform.restart()
    assert sorted(platform.running()) == before
    assert (await platform.ask(agent_session_id="s")).status == 200


async def test_a_sandbox_whose_name_was_not_written_down_is_undone(tmp_path: Path) -> None:
    """Killed between making it and saving its handle, the platform starts again, and frees the home that it holds."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        (live,) = platform.platform.sandboxes.live
        nameless = replace(live.row, handle=None)
        await platform.store.write(lambda conn: sandbox_rows.put_sandbox(conn, nameless))
        await platform.restart()
        assert (platform.running(), platform.place.homes) == ([], {})
        assert await platform.store.read(sandbox_rows.all_sandboxes) == []
