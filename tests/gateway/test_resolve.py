"""Which session and which sandbox serve a request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.base import ImageSource, Source
from cupola.drivers.fake import Behaviour, Moment
from cupola.errors import StartFailed
from tests.support.agents import ECHO, echo
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

AGENT = f"{PROJECT}/agents/a1"


async def put_to_sleep(platform: PlatformUnderTest) -> None:
    """All sandboxes go idle."""
    platform.clock.now += 901
    await platform.platform.reaper.once()
    assert platform.running() == []


async def test_every_call_without_an_id_begins_a_session(platform: PlatformUnderTest) -> None:
    """`previous_response_id` alone binds nothing."""
    await platform.create_version()
    first = await platform.hear()
    second = await platform.hear()
    third = await platform.hear(previous_response_id=second["id"])
    assert len({body["agent_session_id"] for body in (first, second, third)}) == 3
    assert third["previous_response_id"] == second["id"]


async def test_the_first_session_adopts_the_warm_sandbox(platform: PlatformUnderTest) -> None:
    """The one that was probed; it takes over the session id that the sandbox was started with."""
    await platform.create_version()
    (warm,) = platform.running()
    told = platform.sandbox.environment["FOUNDRY_AGENT_SESSION_ID"]
    first = await platform.hear()
    assert first["agent_session_id"] == told
    assert platform.running() == [warm]
    await platform.hear()
    assert len(platform.running()) == 2


async def test_a_conversation_binds_a_session(platform: PlatformUnderTest) -> None:
    """All of its calls meet the same sandbox, also after it slept, also by object instead of id."""
    await platform.create_version()
    conversation = await platform.conversation()
    first = await platform.hear(conversation=conversation)
    second = await platform.hear(conversation={"id": conversation})
    assert first["agent_session_id"] == second["agent_session_id"]
    await put_to_sleep(platform)
    third = await platform.hear(conversation=conversation)
    assert third["agent_session_id"] == first["agent_session_id"]
    other = await platform.hear(conversation=await platform.conversation())
    assert other["agent_session_id"] != first["agent_session_id"]


async def test_concurrent_calls_of_a_new_conversation_share_its_session(platform: PlatformUnderTest) -> None:
    """Whoever comes first begins it."""
    await platform.create_version()
    conversation = await platform.conversation()
    heard = await asyncio.gather(*(platform.hear(conversation=conversation) for _ in range(5)))
    assert len({body["agent_session_id"] for body in heard}) == 1


async def test_an_id_picks_or_makes_a_session(platform: PlatformUnderTest) -> None:
    """A new id makes a session of that name, a known one is met again."""
    await platform.create_version()
    first = await platform.ask(agent_session_id="mine-1")
    assert first.json()["agent_session_id"] == first.headers["x-agent-session-id"] == "mine-1"
    assert (await platform.hear(agent_session_id="mine-1"))["agent_session_id"] == "mine-1"
    assert platform.place.starts["mine-1"] == 1


async def test_an_id_binds_its_conversation(platform: PlatformUnderTest) -> None:
    """A conversation that is named beside a session goes on there, whether the session ran already or not."""
    await platform.create_version()
    fresh, running = await platform.conversation(), await platform.conversation()
    await platform.hear(agent_session_id="mine-1", conversation=fresh)
    await platform.hear(agent_session_id="mine-1", conversation=running)
    for conversation in (fresh, running):
        assert (await platform.hear(conversation=conversation))["agent_session_id"] == "mine-1"


@pytest.mark.parametrize("session", ["a b", "a/b", "ä", "x" * 129, "a.b"])
async def test_odd_session_ids_are_refused(platform: PlatformUnderTest, session: str) -> None:
    """The sentence says what is allowed."""
    await platform.create_version()
    answer = await platform.ask(agent_session_id=session)
    assert (answer.status, answer.error["param"]) == (400, "agent_session_id")


async def test_another_callers_session_is_not_accessible(platform: PlatformUnderTest) -> None:
    """403 `session_not_accessible`, whether it runs or sleeps."""
    await platform.create_version()
    await platform.hear(agent_session_id="mine-1")
    other = platform.caller("other")
    for _ in range(2):
        answer = await platform.ask(by=other, agent_session_id="mine-1")
        assert (answer.status, answer.error["code"]) == (403, "session_not_accessible")
        await put_to_sleep(platform)
    assert platform.running() == []


async def test_twenty_requests_start_a_sleeping_session_once(platform: PlatformUnderTest) -> None:
    """One start however many ask, and all of them are answered."""
    await platform.create_version()
    await platform.hear(agent_session_id="mine-1")
    await put_to_sleep(platform)
    before = platform.place.starts["mine-1"]
    heard = await asyncio.gather(*(platform.hear(agent_session_id="mine-1") for _ in range(20)))
    assert len(heard) == 20
    assert platform.place.starts["mine-1"] == before + 1


async def test_twenty_requests_with_one_new_id_make_one_session(platform: PlatformUnderTest) -> None:
    """The same for a session that nobody knew."""
    await platform.create_version()
    await asyncio.gather(*(platform.hear(agent_session_id="new") for _ in range(20)))
    assert platform.place.starts["new"] == 1


async def test_a_caller_who_leaves_does_not_end_the_start(tmp_path: Path) -> None:
    """Others wait for the same sandbox."""
    released = asyncio.Event()
    released.set()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START, released=released, handler=echo)) as platform:
        await platform.create_version()
        released.clear()
        impatient = asyncio.create_task(platform.ask(agent_session_id="s"))
        patient = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: platform.place.starts["s"] == 1)
        impatient.cancel()
        released.set()
        assert (await patient).status == 200
        assert platform.place.starts["s"] == 1


async def test_waits_for_a_version_that_is_being_made(tmp_path: Path) -> None:
    """The first request may come before the version is active."""
    released = asyncio.Event()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.PREPARE, released=released, handler=echo)) as platform:
        await platform.call("POST", f"{AGENT}/versions", {"definition": DEFINITION})
        asking = asyncio.create_task(platform.ask())
        _, still = await asyncio.wait([asking], timeout=0.05)
        assert still
        released.set()
        assert (await asking).status == 200


async def test_a_failed_version_is_a_424_with_the_evidence(tmp_path: Path) -> None:
    """Everything that stands on the version, on every call; and no client tries again by itself."""
    crash = Behaviour(exit_code=1, output=("ModuleNotFoundError: No module named 'flask'",))
    async with open_platform(tmp_path, crash) as platform:
        await platform.call("POST", f"{AGENT}/versions", {"definition": DEFINITION})
        answer = await platform.ask()
        assert (answer.status, answer.error["code"]) == (424, "session_not_ready")
        assert "No module named 'flask'" in answer.error["message"]
        evidence = answer.error["additionalInfo"]
        assert (evidence["phase"], evidence["exit_code"]) == ("start", 1)
        assert evidence["log"] == list(crash.output)
        assert answer.error["details"][0]["code"] == "UserError"
        assert answer.headers["x-should-retry"] == "false"


async def test_a_sandbox_that_does_not_come_back_is_a_424(platform: PlatformUnderTest) -> None:
    """With the session's id; the next call tries again."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await put_to_sleep(platform)
    platform.place.behaviour = Behaviour(out_of_memory=True)
    failed = await platform.ask(agent_session_id="s")
    assert (failed.status, failed.error["code"]) == (424, "session_not_ready")
    assert "ran out of memory" in failed.error["message"]
    assert failed.error["additionalInfo"]["agent_session_id"] == "s"
    assert platform.running() == []
    platform.place.behaviour = ECHO
    assert (await platform.ask(agent_session_id="s")).status == 200


async def test_an_image_that_has_vanished_is_a_424(platform: PlatformUnderTest) -> None:
    """What the driver says about it reaches the caller."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await put_to_sleep(platform)
    platform.place.behaviour = Behaviour(fails=StartFailed("No such image.", phase="create", code="ImageError"))
    failed = await platform.ask(agent_session_id="s")
    assert failed.status == 424
    assert failed.error["details"][0] == {"code": "ImageError", "message": "No such image."}


async def test_unknown_agents_and_versions(platform: PlatformUnderTest) -> None:
    """404, also for an agent without any version."""
    assert (await platform.ask()).status == 404
    await platform.create_version()
    by_version = {"input": "x", "agent_reference": {"name": "a1", "version": "9"}}
    answer = await platform.call("POST", f"{PROJECT}/openai/v1/responses", by_version)
    assert answer.status == 404
    assert "no version '9'" in answer.error["message"]
    await platform.call("DELETE", f"{AGENT}/versions/1")
    answer = await platform.ask()
    assert answer.status == 404
    assert "no active version" in answer.error["message"]


def naming_its_image(source: Source) -> Behaviour:
    """Agents that serve under the name of their image."""
    assert isinstance(source, ImageSource)
    return Behaviour(handler=echo, output=(source.image,))


def with_image(number: int) -> dict[str, Any]:
    return {**DEFINITION, "container_configuration": {"image": f"agent:{number}"}}


async def test_weights_part_new_sessions(tmp_path: Path) -> None:
    """A version with all of the weight gets all new sessions; those that exist stay where they are."""
    async with open_platform(tmp_path, naming_its_image) as platform:
        for number in (1, 2):
            await platform.create_version("a1", with_image(number))
        old = (await platform.hear(agent_session_id="old"))["agent_session_id"]
        rules = [
            {"type": "FixedRatio", "agent_version": "1", "traffic_percentage": 100},
            {"type": "FixedRatio", "agent_version": "2", "traffic_percentage": 0},
        ]
        patch = {"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}}
        assert (await platform.call("PATCH", AGENT, patch)).status == 200
        for _ in range(4):
            await platform.hear()
        await platform.hear(agent_session_id=old)
        running = [(live.row.session_id, live.row.version) for live in platform.platform.sandboxes.live if live.session]
        assert sorted(version for session, version in running if session != old) == ["1"] * 4
        assert dict(running)[old] == "2"


async def test_a_reference_may_name_a_version(tmp_path: Path) -> None:
    """New sessions of such calls begin on it."""
    async with open_platform(tmp_path, naming_its_image) as platform:
        for number in (1, 2):
            await platform.create_version("a1", with_image(number))
        body = {"input": "x", "agent_reference": {"name": "a1", "version": "1"}, "agent_session_id": "s"}
        assert (await platform.call("POST", f"{PROJECT}/openai/v1/responses", body)).status == 200
        (live,) = [live for live in platform.platform.sandboxes.live if live.row.session_id == "s"]
        assert live.row.version == "1"


async def test_a_session_ends_with_its_version(platform: PlatformUnderTest) -> None:
    """Its id is free again: the next call with it begins anew, on another version."""
    await platform.create_version()
    await platform.hear(agent_session_id="s")
    await platform.create_version("a1", with_image(2))
    await platform.call("DELETE", f"{AGENT}/versions/1?force=true")
    assert (await platform.hear(agent_session_id="s"))["agent_session_id"] == "s"
    (live,) = [live for live in platform.platform.sandboxes.live if live.row.session_id == "s"]
    assert live.row.version == "2"


async def test_deleting_a_version_answers_those_who_wait_for_it(tmp_path: Path) -> None:
    """A request whose sandbox is being started when its version goes gets an error, not silence."""
    released = asyncio.Event()
    released.set()
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START, released=released, handler=echo)) as platform:
        await platform.create_version()
        released.clear()
        waiting = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: platform.place.starts["s"] == 1)
        assert (await platform.call("DELETE", f"{AGENT}/versions/1?force=true")).status == 200
        answer = await waiting
        assert answer.status == 409
        assert "'s'" in answer.error["message"]
        assert platform.running() == []


async def test_a_full_house_makes_room(tmp_path: Path) -> None:
    """The sandbox that rested longest stops for a new one; its session comes back when it is asked."""
    async with open_platform(tmp_path, ECHO, max_sandboxes=2) as platform:
        await platform.create_version()
        for session in ("s1", "s2", "s3"):
            platform.clock.now += 1
            await platform.hear(agent_session_id=session)
        assert len(platform.running()) == 2
        assert platform.place.stops["s1"] == 1
        assert (await platform.hear(agent_session_id="s1"))["agent_session_id"] == "s1"


async def test_a_house_full_of_work_is_a_429(tmp_path: Path) -> None:
    """Nobody is put out in the middle of a reply."""
    gate = asyncio.Event()

    async def waiting(sandbox: Any, request: Any) -> Any:
        await gate.wait()
        return await echo(sandbox, request)

    async with open_platform(tmp_path, Behaviour(handler=waiting), max_sandboxes=1) as platform:
        await platform.create_version()
        busy = asyncio.create_task(platform.ask())
        await wait_until(lambda: any(live.open_requests for live in platform.platform.sandboxes.live))
        refused = await platform.ask(agent_session_id="other")
        assert (refused.status, refused.error["code"]) == (429, "QuotaExceeded")
        assert "CUPOLA_MAX_SANDBOXES" in refused.error["message"]
        gate.set()
        assert (await busy).status == 200
