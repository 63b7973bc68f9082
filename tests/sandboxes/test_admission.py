"""No more sessions run at once than the limits allow, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.fake import Behaviour
from cupola.identity import Role
from tests.support.agents import ECHO, slow
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


def sessions_of(platform: PlatformUnderTest) -> list[str]:
    live = platform.platform.sandboxes.live
    return sorted(one.row.session_id for one in live if one.session is not None)


async def test_beyond_the_limit_a_newcomer_gets_the_numbers(tmp_path: Path) -> None:
    """429 `QuotaExceeded`, in the header too; nothing is half made; a free seat is given again."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate), max_sessions_per_agent=1) as platform:
        await platform.create_version()
        first = asyncio.create_task(platform.ask(stream=True, on_chunk=begun))
        await begun.wait()
        for wanted in (None, "mine"):
            refused = await platform.ask(agent_session_id=wanted)
            assert (refused.status, refused.error["code"]) == (429, "QuotaExceeded")
            assert refused.headers["x-adc-response-details"] == "QuotaExceeded"
            info = refused.error["additionalInfo"]
            assert (info["scope"], info["limit"], info["running"]) == ("agent", 1, 1)
        assert (await platform.call("POST", SESSIONS, {})).status == 429
        assert len((await platform.call("GET", SESSIONS)).json()["data"]) == 1
        gate.set()
        assert (await first).status == 200
        assert (await platform.ask(agent_session_id="mine", stream=True)).status == 200
        assert sessions_of(platform) == ["mine"]


async def test_a_running_session_is_not_asked(tmp_path: Path) -> None:
    """Its requests go on, also where it fills the limit by itself."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_caller=1) as platform:
        await platform.create_version()
        for _ in range(3):
            await platform.hear(agent_session_id="s")
        assert platform.place.starts["s"] == 1


async def test_a_resting_session_makes_room_and_comes_back(tmp_path: Path) -> None:
    """It sleeps; its next request takes the seat of the other."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_project=1) as platform:
        await platform.create_version()
        for session in ("s", "t", "s"):
            await platform.hear(agent_session_id=session)
            assert sessions_of(platform) == [session]


async def test_a_caller_makes_room_from_its_own(tmp_path: Path) -> None:
    """Another caller's resting session goes on resting in its sandbox."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_caller=1) as platform:
        await platform.create_version()
        ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
        await platform.hear(by=bob, agent_session_id="bobs")
        await platform.hear(by=ann, agent_session_id="anns")
        await platform.hear(by=ann, agent_session_id="anns-too")
        assert sessions_of(platform) == ["anns-too", "bobs"]


@pytest.mark.parametrize(
    "limit", ["max_sandboxes", "max_sessions_per_project", "max_sessions_per_agent", "max_sessions_per_caller"]
)
async def test_of_many_newcomers_only_as_many_get_in(tmp_path: Path, limit: str) -> None:
    """Ten at once for three seats, the probed sandbox among what can be had: three run, seven are told why."""
    gate = asyncio.Event()
    settings: dict[str, Any] = {limit: 3}
    async with open_platform(tmp_path, slow(gate), **settings) as platform:
        await platform.create_version()
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(sessions_of(platform)))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        asking = [asyncio.create_task(platform.ask(stream=True)) for _ in range(10)]
        await wait_until(lambda: sum(task.done() for task in asking) >= 7)
        gate.set()
        statuses = sorted([(await task).status for task in asking])
        watching.cancel()
        assert statuses == [200] * 3 + [429] * 7
        assert most == 3
        assert len((await platform.call("GET", SESSIONS)).json()["data"]) == 3


async def test_a_failed_start_gives_its_seat_back(tmp_path: Path) -> None:
    """So does one that is broken off."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_project=1) as platform:
        await platform.create_version()
        platform.place.behaviour = Behaviour(exit_code=3)
        assert (await platform.ask(agent_session_id="s")).status == 424
        platform.place.behaviour = ECHO
        await platform.hear(agent_session_id="t")


async def test_a_newcomer_waits_for_one_that_leaves(tmp_path: Path) -> None:
    """A sandbox in its grace holds its seat, and is worth waiting for."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_project=1) as platform:
        await platform.create_version()
        platform.place.behaviour = Behaviour(stubborn=True, handler=ECHO.handler)
        await platform.hear(agent_session_id="s")
        stopping = asyncio.create_task(platform.call("POST", f"{SESSIONS}/s:stop"))
        await wait_until(lambda: platform.platform.sandboxes.live_of(("demo", "a1", "s")) is None)
        asking = asyncio.create_task(platform.ask(agent_session_id="t"))
        assert (await asking).status == 200
        assert (await stopping).status == 204
        assert sessions_of(platform) == ["t"]


async def test_adopted_sessions_hold_their_seats_after_a_restart(tmp_path: Path) -> None:
    """The count is read off what runs, not kept beside it."""
    async with open_platform(tmp_path, ECHO, max_sessions_per_project=2) as platform:
        await platform.create_version()
        for session in ("s", "t"):
            await platform.hear(agent_session_id=session)
        await platform.restart()
        assert sessions_of(platform) == ["s", "t"]
        await platform.hear(agent_session_id="u")
        assert len(sessions_of(platform)) == 2
