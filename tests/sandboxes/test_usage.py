"""What sessions use, and what happens when it is too much. The test moves the clock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.sessions import Session
from cupola.store import sessions as session_rows
from tests.support.agents import ECHO, slow
from tests.support.platform import DEFINITION, OPENAI, PROJECT, PlatformUnderTest, open_platform

VERSIONS = f"{PROJECT}/agents/a1/versions"


async def later(platform: PlatformUnderTest, seconds: float) -> None:
    platform.clock.now += seconds
    await platform.platform.reaper.once()


async def stored(platform: PlatformUnderTest, session: str = "s") -> Session:
    found = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", session))
    assert found is not None
    return found


def sandbox_of(platform: PlatformUnderTest, session: str = "s") -> Any:
    live = platform.platform.sandboxes.live_of(("demo", "a1", session))
    assert live is not None
    return platform.place.sandboxes[live.row.id]


async def test_use_adds_up_over_the_sandboxes_of_a_session(platform: PlatformUnderTest) -> None:
    """Kept by the pass and at the stop; time asleep is free."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    sandbox_of(platform).cpu_seconds = 2.5
    await later(platform, 10)
    assert ((await stored(platform)).used_seconds, (await stored(platform)).used_cpu_seconds) == (10, 2.5)
    platform.clock.now += 3
    sandbox_of(platform).cpu_seconds = 4
    stop = f"{PROJECT}/agents/a1/endpoint/sessions/s:stop"
    await platform.call("POST", stop)
    assert ((await stored(platform)).used_seconds, (await stored(platform)).used_cpu_seconds) == (13, 4)
    await later(platform, 1000)
    await platform.hear(agent_session_id="s")
    sandbox_of(platform).cpu_seconds = 1
    await later(platform, 7)
    assert ((await stored(platform)).used_seconds, (await stored(platform)).used_cpu_seconds) == (20, 5)
    shown = (await platform.call("GET", f"{PROJECT}/agents/a1/endpoint/sessions/s")).json()
    assert shown["usage"] == {"seconds": 20, "cpu_seconds": 5}


async def test_a_crash_neither_loses_nor_doubles_what_was_used(platform: PlatformUnderTest) -> None:
    """Up to the last pass; the sandbox's own count of processor time goes on where it was."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    sandbox_of(platform).cpu_seconds = 3
    await later(platform, 10)
    platform.clock.now += 500
    await platform.restart()
    sandbox_of(platform).cpu_seconds = 4
    await later(platform, 5)
    assert ((await stored(platform)).used_seconds, (await stored(platform)).used_cpu_seconds) == (15, 4)


async def test_a_driver_that_cannot_say_costs_no_time(platform: PlatformUnderTest) -> None:
    """What a pass has missed, the next one counts."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    sandbox = sandbox_of(platform)
    sandbox.cpu_seconds = None
    await later(platform, 5)
    assert ((await stored(platform)).used_seconds, (await stored(platform)).used_cpu_seconds) == (5, 0)
    sandbox.cpu_seconds = 2
    await later(platform, 5)
    assert (await stored(platform)).used_cpu_seconds == 2


@pytest.mark.parametrize("jump", [8 * 3600.0, -8 * 3600.0])
async def test_a_jump_of_the_clock_is_no_use(platform: PlatformUnderTest, jump: float) -> None:
    """Nor does it give anything back."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await later(platform, 10)
    platform.clock.jump += jump
    await later(platform, 10)
    await later(platform, 10)
    assert (await stored(platform)).used_seconds == 30


@pytest.mark.parametrize(("key", "cpu"), [("session_max_seconds", 0.0), ("session_max_cpu_seconds", 60.0)])
async def test_over_its_budget_a_session_is_cut_off(tmp_path: Path, key: str, cpu: float) -> None:
    """In the middle of a stream, which ends `failed` with the numbers; so do requests that come later."""
    gate, begun = asyncio.Event(), asyncio.Event()
    settings: dict[str, Any] = {key: 60}
    async with open_platform(tmp_path, slow(gate), **settings) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, on_chunk=begun))
        await begun.wait()
        await later(platform, 59)
        assert platform.platform.sandboxes.live_of(("demo", "a1", "s")) is not None
        sandbox_of(platform).cpu_seconds = cpu
        await later(platform, 1)
        said = (await asking).body
        assert b"response.failed" in said
        assert b"60.0 of the 60 seconds" in said
        assert not [one for one in platform.place.sandboxes.values() if one.spec.labels["cupola.session"] == "s"]
        refused = await platform.ask(agent_session_id="s")
        assert (refused.status, refused.error["code"]) == (429, "QuotaExceeded")
        info = refused.error["additionalInfo"]
        assert (info["scope"], info["budget"], info["limit"], info["used"]) == ("session", key, 60, 60)
        assert platform.place.starts["s"] == 1
        gate.set()
        assert (await platform.ask(agent_session_id="t", stream=True)).status == 200


async def test_what_runs_in_the_background_ends_with_the_budget(tmp_path: Path) -> None:
    """As `failed`, with the sentence."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate), session_max_seconds=60) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, background=True, on_chunk=begun))
        await begun.wait()
        await later(platform, 60)
        answer = await asking
        response = orjson.loads(answer.chunks[0].split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
        kept = (await platform.call("GET", f"{OPENAI}/responses/{response}")).json()
        assert kept["status"] == "failed"
        assert "session_max_seconds" in kept["error"]["message"]


async def test_a_plain_request_is_told_and_not_sent_again(tmp_path: Path) -> None:
    """429 with the numbers: the next sandbox of the session would be over its budget as well."""
    begun = asyncio.Event()

    async def hang(sandbox: FakeSandbox, request: Request) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with open_platform(tmp_path, Behaviour(handler=hang), session_max_seconds=60) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        await begun.wait()
        await later(platform, 60)
        refused = await asking
        assert (refused.status, refused.error["additionalInfo"]["used"]) == (429, 60)
        assert platform.place.starts["s"] == 1


async def test_a_versions_own_budget_wins(tmp_path: Path) -> None:
    """As metadata of a version, which is checked when it is made."""
    async with open_platform(tmp_path, ECHO, session_max_seconds=10) as platform:
        made = await platform.call(
            "POST", VERSIONS, {"definition": DEFINITION, "metadata": {"session_max_seconds": "100"}}
        )
        await platform.settled("a1", made.json()["version"])
        await platform.hear(agent_session_id="s")
        await later(platform, 99)
        await platform.hear(agent_session_id="s")
        await later(platform, 1)
        assert (await platform.ask(agent_session_id="s")).status == 429
        refused = await platform.call(
            "POST", VERSIONS, {"definition": DEFINITION, "metadata": {"session_max_cpu_seconds": "much"}}
        )
        assert (refused.status, refused.error["param"]) == (400, "metadata.session_max_cpu_seconds")
