"""Sessions that move to another version, by request or with the traffic, over fake sandboxes that keep files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.fake import Behaviour, Moment
from cupola.errors import StartFailed
from cupola.identity import Role
from tests.sandboxes.test_reconcile import in_background
from tests.support.agents import slow
from tests.support.files import INVOKE, WRITER, answering_version, keep_note, note, write
from tests.support.multipart import as_azd, code_zip, encoded
from tests.support.platform import DEFINITION, PROJECT, Answer, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

OWN = "/cupola/projects/demo/agents/a1/sessions"
AGENT = f"{PROJECT}/agents/a1"
SESSIONS = f"{AGENT}/endpoint/sessions"


async def second_version(platform: PlatformUnderTest) -> None:
    made = await platform.create_version(definition={**DEFINITION, "cpu": "2"})
    assert (made["version"], made["status"]) == ("2", "active")


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    """Two versions, and the session `s` on the first."""
    async with open_platform(tmp_path, WRITER) as under_test:
        await under_test.create_version()
        await write(under_test, "s", "kept")
        await second_version(under_test)
        yield under_test


async def move(platform: PlatformUnderTest, to: str, session: str = "s", **fields: Any) -> Answer:
    return await platform.call("POST", f"{OWN}/{session}:move", {"agent_version": to, **fields})


async def stop(platform: PlatformUnderTest, session: str = "s") -> None:
    assert (await platform.call("POST", f"{SESSIONS}/{session}:stop")).status == 204


def sandboxes_of(platform: PlatformUnderTest, session: str = "s") -> int:
    return sum(one.spec.labels["cupola.session"] == session for one in platform.place.sandboxes.values())


@pytest.mark.operation("cupola.sessions.move")
async def test_a_session_moves_with_its_files_and_back(platform: PlatformUnderTest) -> None:
    """What runs is stopped; the next request starts the other version, with the same `$HOME`."""
    for origin, to in (("1", "2"), ("2", "1")):
        answer = await move(platform, to)
        assert answer.status == 200, answer.body
        moved = answer.json()
        assert (moved["from"], moved["to"], moved["outcome"]) == (origin, to, "moved")
        assert moved["session"]["status"] == "idle"
        assert moved["session"]["version_indicator"]["agent_version"] == to
        assert sandboxes_of(platform) == 0
        assert (await note(platform, "s"), await answering_version(platform, "s")) == ("kept", to)


async def test_a_session_at_rest_is_only_rebound(platform: PlatformUnderTest) -> None:
    """Nothing starts and nothing stops; a move to where it is changes nothing."""
    await stop(platform)
    starts, stops = dict(platform.place.starts), dict(platform.place.stops)
    for outcome in ("moved", "unchanged"):
        assert (await move(platform, "2")).json()["outcome"] == outcome
    assert (dict(platform.place.starts), dict(platform.place.stops)) == (starts, stops)
    assert await answering_version(platform, "s") == "2"


async def test_a_dry_run_changes_nothing(platform: PlatformUnderTest) -> None:
    """It says what would happen."""
    answer = (await move(platform, "2", dry_run=True)).json()
    assert answer["outcome"] == "would_move"
    assert "stopped" in answer["message"]
    assert platform.place.stops["s"] == 0
    assert await answering_version(platform, "s") == "1"


async def test_what_is_open_is_named_and_broken_off_only_by_force(tmp_path: Path) -> None:
    """409; as a dry run the same is a 200 that says it would be refused."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, on_chunk=begun))
        await begun.wait()
        await second_version(platform)
        refused = await move(platform, "2")
        assert (refused.status, refused.error["code"]) == (409, "session_not_movable")
        assert "1 open request" in refused.error["message"]
        assert (await move(platform, "2", dry_run=True)).json()["outcome"] == "refused"
        assert platform.place.stops["s"] == 0
        assert (await move(platform, "2", force=True)).json()["outcome"] == "moved"
        await asking


async def test_a_running_background_response_counts(tmp_path: Path) -> None:
    """It has no open request, but work that would be lost."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        await platform.hear(agent_session_id="s", background=True)
        await second_version(platform)
        assert "1 running background response" in (await move(platform, "2")).error["message"]


async def test_a_session_that_is_just_starting_is_not_moved(tmp_path: Path) -> None:
    """Its start ends on its version; afterwards it can move."""
    released = asyncio.Event()
    released.set()
    behaviour = Behaviour(hangs=Moment.START, released=released, handler=keep_note)
    async with open_platform(tmp_path, behaviour) as platform:
        await platform.create_version()
        await second_version(platform)
        await platform.call("POST", SESSIONS, {"version_indicator": {"agent_version": "1"}, "agent_session_id": "s"})
        await wait_until(lambda: platform.place.starts["s"] == 1)
        await stop(platform)
        released.clear()
        asking = asyncio.create_task(answering_version(platform, "s"))
        await wait_until(lambda: sandboxes_of(platform) == 1)
        assert "a start under way" in (await move(platform, "2")).error["message"]
        released.set()
        assert await asking == "1"
        assert (await move(platform, "2")).status == 200
        assert await answering_version(platform, "s") == "2"


async def test_requests_and_moves_at_once_never_make_two_sandboxes(platform: PlatformUnderTest) -> None:
    """Whoever comes first: every request is answered by one of the two versions, and the files are kept."""
    most = 0
    for round in range(20):
        to = "2" if round % 2 == 0 else "1"
        tasks = [asyncio.create_task(note(platform, "s")) for _ in range(2)]
        for _ in range(round):
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(_moved(platform, to)))
        tasks.append(asyncio.create_task(note(platform, "s")))
        while not all(task.done() for task in tasks):
            most = max(most, sandboxes_of(platform))
            await asyncio.sleep(0)
        assert {await task for task in tasks} <= {"kept", "moved", "refused", "unchanged"}
    assert most == 1


async def _moved(platform: PlatformUnderTest, to: str) -> str:
    answer = await move(platform, to)
    return str(answer.json()["outcome"]) if answer.status == 200 else "refused"


async def test_a_move_that_is_killed_has_happened_or_not(platform: PlatformUnderTest) -> None:
    """The session keeps its files on either version."""
    platform.driver.killed = True  # the sandbox can no longer be stopped: the platform dies over it
    moving = asyncio.create_task(move(platform, "2"))
    await asyncio.wait([moving])
    await platform.crash()
    await platform.open()
    assert (await note(platform, "s"), await answering_version(platform, "s")) == ("kept", "1")
    assert (await move(platform, "2")).status == 200
    await platform.restart()
    assert (await note(platform, "s"), await answering_version(platform, "s")) == ("kept", "2")
    assert sandboxes_of(platform) == 1


async def test_a_version_that_is_not_active_is_no_target(platform: PlatformUnderTest) -> None:
    """409 with its status; a version that is not there is a 404 that names the field."""
    platform.place.behaviour = Behaviour(fails=StartFailed("No room.", phase="create"))
    failed = await platform.create_version(definition={**DEFINITION, "cpu": "3"})
    assert "failed" in (await move(platform, failed["version"])).error["message"]
    missing = await move(platform, "99")
    assert (missing.status, missing.error["param"]) == (404, "agent_version")


async def test_a_failed_session_may_work_on_another_version(platform: PlatformUnderTest) -> None:
    """It rests there, without the failure of the old."""
    await stop(platform)
    platform.place.behaviour = Behaviour(exit_code=3)
    assert (await platform.call("POST", f"{INVOKE}?agent_session_id=s", {})).status == 424
    platform.place.behaviour = WRITER
    session = (await move(platform, "2")).json()["session"]
    assert (session["status"], session["error"]) == ("idle", None)
    assert await note(platform, "s") == "kept"


async def test_code_cannot_take_over_the_home_of_an_image(platform: PlatformUnderTest) -> None:
    """The sentence says why; where sessions follow the traffic, those that cannot stay and go on."""
    made = await platform.call("POST", f"{AGENT}/versions", **encoded(as_azd(code_zip())))
    assert made.status == 200, made.body
    assert (await platform.settled("a1", "3"))["status"] == "active"
    await configure(platform, sessions="follow")
    await stop(platform)
    assert await answering_version(platform, "s") == "1"
    refused = await move(platform, "3")
    assert refused.status == 409
    assert "one cannot take over the home of the other" in refused.error["message"]


async def test_callers_move_their_own_sessions(platform: PlatformUnderTest) -> None:
    """One by one, and of many only theirs."""
    ann = platform.caller("ann", Role.USER)
    await ann("POST", f"{INVOKE}?agent_session_id=hers", {"note": "x"})
    refused = await ann("POST", f"{OWN}/s:move", {"agent_version": "2"})
    assert refused.error["code"] == "session_not_accessible"
    moved = (await ann("POST", f"{OWN.removesuffix('/sessions')}/sessions:move", {"to": "1"})).json()
    assert [each["agent_session_id"] for each in moved["data"]] == ["hers"]
    assert await answering_version(platform, "s") == "1"


@pytest.mark.operation("cupola.sessions.move_many")
async def test_many_move_and_each_says_what_happened(platform: PlatformUnderTest) -> None:
    """Those of one version, or all that are elsewhere; what cannot be moved does not keep the others."""
    await write(platform, "new", "x")  # on version 2 already
    for session in ("t", "u"):
        await platform.call(
            "POST", SESSIONS, {"version_indicator": {"agent_version": "1"}, "agent_session_id": session}
        )
        await wait_until(lambda: platform.platform.sandboxes.live_of(("demo", "a1", session)) is not None)  # noqa: B023 - awaited here
    live = platform.platform.sandboxes.live_of(("demo", "a1", "t"))
    assert live is not None
    live.opened(platform.clock.now)
    path = "/cupola/projects/demo/agents/a1/sessions:move"

    dry = (await platform.call("POST", path, {"to": "2", "dry_run": True})).json()
    assert dry["dry_run"] is True
    assert {each["agent_session_id"]: each["outcome"] for each in dry["data"]} == {
        "s": "would_move",
        "t": "refused",
        "u": "would_move",
    }
    assert await answering_version(platform, "u") == "1"
    real = (await platform.call("POST", path, {"from": "1", "to": "2"})).json()
    outcomes = {each["agent_session_id"]: each for each in real["data"]}
    assert {session: each["outcome"] for session, each in outcomes.items()} == {
        "s": "moved",
        "t": "refused",
        "u": "moved",
    }
    assert "1 open request" in outcomes["t"]["message"]
    live.closed(platform.clock.now)
    back = (await platform.call("POST", path, {"from": "2", "to": "1"})).json()
    assert {each["agent_session_id"] for each in back["data"]} == {"s", "u", "new"}
    assert await note(platform, "s") == "kept"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/s:move", {}, 400, "agent_version"),
        ("/s:move", {"agent_version": "2", "dry-run": True}, 400, "dry-run"),
        ("/s:move", {"agent_version": 2}, 400, "agent_version"),
        (":move", {}, 400, "to"),
        (":move", {"to": "9"}, 404, "to"),
        (":move", {"to": "2", "from": "9"}, 404, "from"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    platform: PlatformUnderTest, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    """The field is named, and nothing moves."""
    refused = await platform.call("POST", f"{OWN}{path}", body)
    assert (refused.status, refused.error["param"]) == (status, param), refused.body
    assert await answering_version(platform, "s") == "1"


# With the traffic


async def configure(platform: PlatformUnderTest, **selector: Any) -> None:
    answer = await platform.call("PATCH", AGENT, {"agent_endpoint": {"version_selector": selector}})
    assert answer.status == 200, answer.body


async def test_sessions_stay_unless_they_are_told_to_follow(platform: PlatformUnderTest) -> None:
    """By default a session is bound to its version, whatever traffic it gets."""
    await stop(platform)
    assert await answering_version(platform, "s") == "1"


async def test_a_resting_session_follows_the_traffic(platform: PlatformUnderTest) -> None:
    """With its next request; one that runs goes on until it rests."""
    await configure(platform, sessions="follow")
    assert await answering_version(platform, "s") == "1"
    await stop(platform)
    assert (await note(platform, "s"), await answering_version(platform, "s")) == ("kept", "2")
    rule = {"type": "FixedRatio", "agent_version": "1", "traffic_percentage": 100}
    await configure(platform, version_selection_rules=[rule])
    await stop(platform)
    assert (await note(platform, "s"), await answering_version(platform, "s")) == ("kept", "1")


async def test_a_version_with_any_traffic_keeps_its_sessions(platform: PlatformUnderTest) -> None:
    """One percent is traffic."""
    rules = [
        {"type": "FixedRatio", "agent_version": version, "traffic_percentage": share}
        for version, share in (("1", 1), ("2", 99))
    ]
    await configure(platform, sessions="follow", version_selection_rules=rules)
    await stop(platform)
    assert await answering_version(platform, "s") == "1"


async def test_requests_that_come_at_once_follow_once(platform: PlatformUnderTest) -> None:
    """All are answered by the new version, from one sandbox."""
    await configure(platform, sessions="follow")
    await stop(platform)
    versions = await asyncio.gather(*(answering_version(platform, "s") for _ in range(5)))
    assert set(versions) == {"2"}
    assert sandboxes_of(platform) == 1
