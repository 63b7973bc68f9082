"""The red button, over fake sandboxes that do not care."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.base import Handle
from cupola.drivers.fake import Behaviour, FakeSandbox, Moment, Reply, Request
from cupola.errors import DriverUnavailable
from cupola.identity import Role
from tests.support.agents import ECHO, slow
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"
OWN = "/cupola/projects/demo"


def kill_of(session: str, agent: str = "a1") -> str:
    return f"{OWN}/agents/{agent}/sessions/{session}:kill"


def sandboxes_of(platform: PlatformUnderTest, session: str) -> int:
    return sum(one.spec.labels["cupola.session"] == session for one in platform.place.sandboxes.values())


async def status_of(platform: PlatformUnderTest, session: str, agent: str = "a1") -> str:
    path = f"{PROJECT}/agents/{agent}/endpoint/sessions/{session}"
    return str((await platform.call("GET", path)).json()["status"])


@pytest.mark.operation("cupola.sessions.kill")
async def test_kill_does_not_wait_for_the_container(tmp_path: Path) -> None:
    """It ignores SIGTERM and is silent, and the grace is a minute; files stay, and the next request resumes."""
    deaf = replace(ECHO, stubborn=True)
    async with open_platform(tmp_path, deaf, idle_timeout=900) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        for _ in range(2):
            assert (await platform.call("POST", kill_of("s"))).status == 204
        assert sandboxes_of(platform, "s") == 0
        assert await status_of(platform, "s") == "idle"
        await platform.hear(agent_session_id="s")


async def test_kill_overtakes_a_stop_that_waits_out_its_grace(tmp_path: Path) -> None:
    """Both return, and the sandbox is gone long before the grace is over."""
    async with open_platform(tmp_path, replace(ECHO, stubborn=True)) as platform:
        platform.platform._starter._stop_grace = 3600
        await platform.create_version()
        await platform.hear(agent_session_id="s")
        stopping = asyncio.create_task(platform.call("POST", f"{SESSIONS}/s:stop"))
        await wait_until(lambda: platform.platform.sandboxes.live_of(("demo", "a1", "s")) is None)
        waiting = asyncio.create_task(platform.call("DELETE", f"{SESSIONS}/nobody"))
        assert (await waiting).status == 204
        assert not stopping.done()
        assert (await platform.call("POST", kill_of("s"))).status == 204
        assert (await stopping).status == 204
        assert sandboxes_of(platform, "s") == 0
        await platform.call("POST", f"{OWN}/sessions:stop", {"grace": 0})


async def test_kill_breaks_off_a_start(tmp_path: Path) -> None:
    """What was made of it is undone; who waited is told; the session sleeps and can be asked again."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        for moment in (Moment.PREPARE, Moment.CREATE, Moment.START):
            platform.place.behaviour = replace(ECHO, hangs=moment)
            session = f"s-{moment}"
            asking = asyncio.create_task(platform.ask(agent_session_id=session))
            await wait_until(lambda key=("demo", "a1", session): platform.platform.sandboxes.has_sandbox(key))  # type: ignore[misc]  # a bound loop variable
            assert (await platform.call("POST", kill_of(session))).status == 204
            assert (await asking).status == 409
            assert sandboxes_of(platform, session) == 0
            assert await status_of(platform, session) == "idle"
            platform.place.behaviour = ECHO
            await platform.hear(agent_session_id=session)


async def test_what_was_open_ends_with_a_reason(tmp_path: Path) -> None:
    """A stream with its last event, a plain request with a 409; neither is sent to another sandbox."""
    gate, begun, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()
    streaming = slow(gate).handler

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if b'"stream":true' in request.body:
            return await streaming(sandbox, request)
        heard.set()
        await gate.wait()
        return Reply(500)

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        stream = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, on_chunk=begun))
        await begun.wait()
        plain = asyncio.create_task(platform.ask(agent_session_id="s"))
        await heard.wait()
        assert (await platform.call("POST", kill_of("s"))).status == 204
        assert b"response.failed" in (await stream).body
        assert b"was killed" in (await stream).body
        refused = await plain
        assert (refused.status, refused.error["code"]) == (409, "session_stopped")
        assert refused.headers["x-should-retry"] == "false"
        assert platform.place.starts["s"] == 1


async def test_users_kill_their_own_and_operators_all(platform: PlatformUnderTest) -> None:
    await platform.create_version()
    ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
    await platform.hear(by=ann, agent_session_id="anns")
    refused = await bob("POST", kill_of("anns"))
    assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
    assert (await ann("POST", kill_of("anns"))).status == 204
    await platform.hear(by=ann, agent_session_id="anns")
    assert (await platform.call("POST", kill_of("anns"))).status == 204
    assert (await platform.call("POST", kill_of("nobody"))).status == 404


@pytest.mark.operation("cupola.sessions.stop_all")
async def test_all_of_a_project_stop_side_by_side(tmp_path: Path) -> None:
    """Stubborn ones and one in the middle of its start, in the time of one grace; not those of another project."""
    async with open_platform(tmp_path, replace(ECHO, stubborn=True)) as platform:
        await platform.create_version()
        await platform.create_version("a2")
        for session in ("s", "t", "u"):
            await platform.hear(agent_session_id=session)
        elsewhere = "/api/projects/other/agents/a1"
        await platform.call("POST", f"{elsewhere}/versions", {"definition": DEFINITION})
        asked = await platform.call(
            "POST", f"{elsewhere}/endpoint/protocols/openai/responses", {"input": "x", "agent_session_id": "far"}
        )
        assert asked.status == 200, asked.body
        platform.place.behaviour = replace(ECHO, hangs=Moment.START)
        asking = asyncio.create_task(
            platform.call(
                "POST",
                f"{PROJECT}/agents/a2/endpoint/protocols/openai/responses",
                {"input": "x", "agent_session_id": "v"},
            )
        )
        await wait_until(lambda: platform.platform.sandboxes.has_sandbox(("demo", "a2", "v")))
        only = await platform.call("POST", f"{OWN}/sessions:stop", {"agent": "a2", "grace": 0})
        assert (only.status, only.json()["stopped"], only.json()["failed"]) == (200, ["v"], [])
        assert (await asking).status == 409
        answer = await platform.call("POST", f"{OWN}/sessions:stop", {"grace": 0.05})
        assert (answer.status, sorted(answer.json()["stopped"]), answer.json()["failed"]) == (200, ["s", "t", "u"], [])
        assert [sandboxes_of(platform, session) for session in ("s", "t", "u", "v", "far")] == [0, 0, 0, 0, 1]
        assert (await platform.call("POST", f"{OWN}/sessions:stop", {})).json()["stopped"] == []


async def test_users_stop_their_own(platform: PlatformUnderTest) -> None:
    await platform.create_version()
    ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
    await platform.hear(by=ann, agent_session_id="anns")
    await platform.hear(by=bob, agent_session_id="bobs")
    assert (await ann("POST", f"{OWN}/sessions:stop", {})).json()["stopped"] == ["anns"]
    assert await status_of(platform, "bobs") == "active"


async def test_what_could_not_be_stopped_is_told(platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sentence; the others are."""
    await platform.create_version()
    for session in ("s", "t"):
        await platform.hear(agent_session_id=session)
    stuck = platform.platform.sandboxes.live_of(("demo", "a1", "s"))
    assert stuck is not None
    stop = platform.driver.stop

    async def away(handle: Handle, grace: float) -> None:
        if handle == stuck.handle:
            raise DriverUnavailable("The engine does not answer.")
        await stop(handle, grace)

    with monkeypatch.context() as patch:
        patch.setattr(platform.driver, "stop", away)
        answer = (await platform.call("POST", f"{OWN}/sessions:stop", {})).json()
    assert answer["stopped"] == ["t"]
    assert answer["failed"] == [{"session": "s", "agent": "a1", "message": "The engine does not answer."}]
    assert await status_of(platform, "s") == "active"


@pytest.mark.parametrize(
    ("body", "param"), [({"grace": -1}, "grace"), ({"grace": "x"}, "grace"), ({"agent": 5}, "agent"), ({"a": 1}, "a")]
)
async def test_what_cannot_be_is_refused(platform: PlatformUnderTest, body: Any, param: str) -> None:
    """Nothing stops for a request that was not understood."""
    refused = await platform.call("POST", f"{OWN}/sessions:stop", body)
    assert (refused.status, refused.error["param"]) == (400, param)
