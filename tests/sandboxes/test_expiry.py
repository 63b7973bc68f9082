"""Thirty days after its last access a session is over, with its files. The test moves the clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cupola.sandboxes.expiry import AT_ONCE
from cupola.sessions import LIFETIME, Session
from cupola.store import sessions as rows
from tests.support.agents import slow
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"
DAY = 24 * 3600


async def asleep(platform: PlatformUnderTest, session: str = "s") -> None:
    """A session that has worked, has a file in its home, and sleeps."""
    await platform.hear(agent_session_id=session)
    live = platform.platform.sandboxes.live_of(("demo", "a1", session))
    assert live is not None
    platform.place.sandboxes[live.row.id].files["note"] = b"kept"
    await platform.call("POST", f"{SESSIONS}/{session}:stop")


async def stored(platform: PlatformUnderTest, session: str = "s") -> Session | None:
    return await platform.store.read(lambda conn: rows.get_session(conn, "demo", "a1", session))


def homes_with_a_note(platform: PlatformUnderTest) -> int:
    return sum("note" in files for files in platform.place.homes.values())


@pytest.fixture(autouse=True)
async def version(platform: PlatformUnderTest) -> None:
    await platform.create_version()


async def test_an_expired_session_goes_with_its_files(platform: PlatformUnderTest) -> None:
    """Not a day before; its conversation begins another, with a new id."""
    conversation = await platform.conversation()
    await platform.hear(conversation=conversation, agent_session_id="s")
    await asleep(platform)
    platform.clock.now += LIFETIME - DAY
    await platform.platform.expiry.once()
    assert homes_with_a_note(platform) == 1
    platform.clock.now += DAY + 61
    await platform.platform.expiry.once()
    assert await stored(platform) is None
    assert homes_with_a_note(platform) == 0
    assert (await platform.call("GET", f"{SESSIONS}/s")).status == 404
    assert (await platform.hear(conversation=conversation))["agent_session_id"] != "s"


async def test_every_access_rolls_the_end_forward(platform: PlatformUnderTest) -> None:
    """Also of a session that is resumed for it."""
    await asleep(platform)
    for _ in range(3):
        platform.clock.now += LIFETIME - DAY
        await platform.platform.expiry.once()
        await platform.hear(agent_session_id="s")
        shown = (await platform.call("GET", f"{SESSIONS}/s")).json()
        assert shown["expires_at"] == int(platform.clock.now + LIFETIME)
        await platform.call("POST", f"{SESSIONS}/s:stop")
    assert homes_with_a_note(platform) == 1


async def test_before_the_pass_has_come_by_it_is_over_as_well(platform: PlatformUnderTest) -> None:
    """It is shown as `expired`; a request for it begins a new one under its id, without its files."""
    await asleep(platform)
    before = await stored(platform)
    assert before is not None
    platform.clock.now += LIFETIME
    assert (await platform.call("GET", f"{SESSIONS}/s")).json()["status"] == "expired"
    assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"
    assert homes_with_a_note(platform) == 0
    after = await stored(platform)
    assert after is not None
    assert after.guid != before.guid
    assert (await platform.call("GET", f"{SESSIONS}/s")).json()["status"] == "active"


async def test_its_id_and_its_conversation_are_free_again(platform: PlatformUnderTest) -> None:
    """A create with the id is no conflict; the conversation gets a session with an id of its own."""
    conversation = await platform.conversation()
    await platform.hear(conversation=conversation, agent_session_id="s")
    await asleep(platform)
    await asleep(platform, "t")
    platform.clock.now += LIFETIME
    assert (await platform.hear(conversation=conversation))["agent_session_id"] != "s"
    assert (await platform.call("POST", SESSIONS, {"agent_session_id": "t"})).status == 201
    assert homes_with_a_note(platform) == 0


async def test_a_request_while_it_is_being_ended_waits_for_that(platform: PlatformUnderTest) -> None:
    """However the two interleave: the request is answered, by a session without the old files."""
    for turns in range(12):
        await asleep(platform)
        platform.clock.now += LIFETIME + 61
        ending = asyncio.create_task(platform.platform.expiry.once())
        for _ in range(turns):
            await asyncio.sleep(0)
        assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"
        await ending
        assert homes_with_a_note(platform) == 0
        assert await stored(platform) is not None
        await platform.call("DELETE", f"{SESSIONS}/s")


async def test_what_is_in_use_never_expires(tmp_path: Path) -> None:
    """However long its one request lasts."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path / "slow", slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, on_chunk=begun))
        await begun.wait()
        platform.clock.now += 2 * LIFETIME
        await platform.platform.expiry.once()
        await platform.platform.expiry.once()
        shown = (await platform.call("GET", f"{SESSIONS}/s")).json()
        assert (shown["status"], shown["expires_at"]) == ("active", int(platform.clock.now + LIFETIME))
        gate.set()
        assert b"response.completed" in (await asking).body


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY])
async def test_a_clock_that_has_just_jumped_is_not_believed(platform: PlatformUnderTest, jump: float) -> None:
    """Nothing is removed by the pass, nothing is lost by asking; set right again, all is as before."""
    await asleep(platform)
    platform.clock.now += 1000
    platform.clock.jump += jump
    await platform.platform.reaper.once()
    await platform.platform.expiry.once()
    assert homes_with_a_note(platform) == 1
    await platform.hear(agent_session_id="s")
    assert homes_with_a_note(platform) == 1
    await platform.call("POST", f"{SESSIONS}/s:stop")
    platform.clock.now += 100
    platform.clock.jump -= jump
    await platform.platform.reaper.once()
    platform.clock.now += 1000
    await platform.platform.expiry.once()
    assert (await platform.call("GET", f"{SESSIONS}/s")).json()["status"] == "idle"
    await platform.hear(agent_session_id="s")
    assert homes_with_a_note(platform) == 1


async def test_what_was_used_while_the_clock_was_behind_is_kept(platform: PlatformUnderTest) -> None:
    """Set right again, the time that never passed is not held against it, however long the clock stands then."""
    platform.clock.jump -= 400 * DAY
    await platform.platform.reaper.once()
    await asleep(platform)
    platform.clock.now += 100
    platform.clock.jump += 400 * DAY
    await platform.platform.reaper.once()
    platform.clock.now += 1000
    await platform.platform.expiry.once()
    assert (await platform.call("GET", f"{SESSIONS}/s")).json()["status"] == "idle"
    await platform.hear(agent_session_id="s")
    assert homes_with_a_note(platform) == 1
    assert (await platform.call("GET", f"{SESSIONS}/s")).json()["expires_at"] == int(platform.clock.now + LIFETIME)


async def test_a_clock_that_was_wrong_at_the_start_is_not_believed(platform: PlatformUnderTest) -> None:
    """A machine that boots a year ahead gets its time from the network within minutes."""
    await asleep(platform)
    await platform.crash()
    platform.clock.jump = 400 * DAY
    await platform.open()
    platform.clock.now += 500
    await platform.platform.expiry.once()
    await platform.hear(agent_session_id="s")
    assert homes_with_a_note(platform) == 1


async def test_a_pass_ends_so_many_at_once(platform: PlatformUnderTest) -> None:
    """The next one goes on."""
    now = platform.clock.now
    old = [Session("demo", "a1", f"s{n}", f"g{n}", "1", "c", f"h{n}", now, now) for n in range(AT_ONCE + 5)]

    def put(conn: object) -> None:
        for session in old:
            rows.put_session(conn, session.to_idle(now))  # type: ignore[arg-type]  # the store's connection

    await platform.store.write(put)
    platform.clock.now += LIFETIME + 61
    for left in (5, 0):
        await platform.platform.expiry.once()
        due = platform.clock.now
        assert len(await platform.store.read(lambda conn, due=due: rows.expired_sessions(conn, due))) == left  # type: ignore[misc]  # a bound loop variable
