"""Snapshots, restores and forks as clients see them, over fake sandboxes that keep files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cupola.identity import Role
from cupola.store import sessions as session_rows
from tests.support.agents import slow
from tests.support.files import INVOKE, WRITER, note, write
from tests.support.platform import PROJECT, Caller, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

OWN = "/cupola/projects/demo/agents/a1/sessions"
SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    """One version of an agent that keeps a note, with the session `s`."""
    async with open_platform(tmp_path, WRITER) as under_test:
        await under_test.create_version()
        await write(under_test, "s", "one")
        yield under_test


async def snapshot(platform: PlatformUnderTest, session: str = "s", **fields: Any) -> Mapping[str, Any]:
    answer = await platform.call("POST", f"{OWN}/{session}/snapshots", fields)
    assert answer.status == 201, answer.body
    made: Mapping[str, Any] = answer.json()
    return made


async def listed(platform: PlatformUnderTest, by: Caller | None = None, session: str = "s") -> list[str]:
    answer = await (by or platform.call)("GET", f"{OWN}/{session}/snapshots")
    assert answer.status == 200, answer.body
    return [made["id"] for made in answer.json()["data"]]


async def home(platform: PlatformUnderTest, session: str) -> str:
    found = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", session))
    assert found is not None
    return found.home


@asynccontextmanager
async def copy_held(platform: PlatformUnderTest, *request: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A request whose copy waits in the middle until the body is over."""
    platform.place.copies_held, platform.place.copying = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(platform.call(*request))
    await platform.place.copying.wait()
    try:
        yield asking
    finally:
        platform.place.copies_held.set()
        platform.place.copies_held = None
        await asyncio.wait([asking])


@pytest.mark.operation("cupola.snapshots.create", "cupola.snapshots.list")
async def test_a_running_session_is_copied_as_it_runs(platform: PlatformUnderTest) -> None:
    """The snapshot says how large it is and of what; the session goes on."""
    made = await snapshot(platform, note="before the upgrade")
    assert {**made, "id": "", "created_at": 0} == {
        "object": "cupola.snapshot",
        "id": "",
        "agent_session_id": "s",
        "agent_version": "1",
        "status": "ready",
        "size": 3,
        "note": "before the upgrade",
        "created_at": 0,
    }
    assert platform.place.stops["s"] == 0
    second = await snapshot(platform)
    answer = (await platform.call("GET", f"{OWN}/s/snapshots?limit=1")).json()
    assert ([each["id"] for each in answer["data"]], answer["has_more"]) == ([second["id"]], True)
    assert await listed(platform) == [second["id"], made["id"]]


async def test_a_session_can_be_stopped_for_its_snapshot(platform: PlatformUnderTest) -> None:
    """Requests wait for the end of the copy, and then resume it."""
    async with copy_held(platform, "POST", f"{OWN}/s/snapshots", {"stop": True}) as copying:
        assert platform.place.stops["s"] == 1
        asking = asyncio.create_task(note(platform, "s"))
        await wait_until(lambda: platform.platform.sandboxes.live_of(("demo", "a1", "s")) is None)
        assert platform.place.starts["s"] == 1
    assert (await copying).status == 201
    assert await asking == "one"
    assert platform.place.starts["s"] == 2


@pytest.mark.operation("cupola.sessions.restore")
async def test_a_session_goes_back_to_a_snapshot(platform: PlatformUnderTest) -> None:
    """It rests, its next request sees the files as they were; the snapshot stays, and the home that it left is gone."""
    made = await snapshot(platform)
    left = await home(platform, "s")
    await write(platform, "s", "two")
    for _ in range(2):
        answer = await platform.call("POST", f"{OWN}/s:restore", {"snapshot": made["id"]})
        assert (answer.status, answer.json()["status"]) == (200, "idle"), answer.body
        assert await note(platform, "s") == "one"
        await write(platform, "s", "three")
    assert left not in platform.place.homes
    assert await listed(platform) == [made["id"]]


@pytest.mark.operation("cupola.sessions.fork")
async def test_a_fork_is_a_session_of_its_own(platform: PlatformUnderTest) -> None:
    """It begins with the files of the other; from then on neither sees what the other writes."""
    answer = await platform.call("POST", f"{OWN}/s:fork", {"agent_session_id": "t"})
    assert answer.status == 201, answer.body
    forked = answer.json()
    assert (forked["agent_session_id"], forked["status"]) == ("t", "idle")
    assert forked["version_indicator"]["agent_version"] == "1"
    assert (await platform.call("GET", f"{SESSIONS}/t")).json() == forked
    await write(platform, "s", "two")
    assert await note(platform, "t") == "one"
    await write(platform, "t", "three")
    assert await note(platform, "s") == "two"


async def test_a_fork_of_a_snapshot(platform: PlatformUnderTest) -> None:
    """As the session was then, with an id of its own."""
    made = await snapshot(platform)
    await write(platform, "s", "two")
    forked = (await platform.call("POST", f"{OWN}/s:fork", {"snapshot": made["id"]})).json()
    assert await note(platform, forked["agent_session_id"]) == "one"


async def test_an_id_that_is_taken_is_not_forked_to(platform: PlatformUnderTest) -> None:
    """Nothing is copied."""
    homes = set(platform.place.homes)
    answer = await platform.call("POST", f"{OWN}/s:fork", {"agent_session_id": "s"})
    assert (answer.status, answer.error["param"]) == (409, "agent_session_id")
    assert set(platform.place.homes) == homes


@pytest.mark.operation("cupola.snapshots.delete")
async def test_a_deleted_snapshot_is_gone_with_its_files(platform: PlatformUnderTest) -> None:
    """The session stays; what is not there cannot be deleted again, restored or forked."""
    homes = set(platform.place.homes)
    made = await snapshot(platform)
    path = f"{OWN}/s/snapshots/{made['id']}"
    assert (await platform.call("DELETE", path)).status == 204
    assert await listed(platform) == []
    assert set(platform.place.homes) == homes
    for request in (
        ("DELETE", path),
        ("POST", f"{OWN}/s:restore", {"snapshot": made["id"]}),
        ("POST", f"{OWN}/s:fork", {"snapshot": made["id"]}),
    ):
        answer = await platform.call(*request)
        assert (answer.status, answer.error["param"]) == (404, "snapshot")


@pytest.mark.parametrize(
    ("path", "body"),
    [("s/snapshots", {"stop": True}), ("s:restore", {})],
    ids=["snapshot", "restore"],
)
async def test_what_is_open_is_broken_off_only_by_force(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """409 names it; with force it ends and the copy is made."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(agent_session_id="s", stream=True, on_chunk=begun))
        await begun.wait()
        if path == "s:restore":
            body = {"snapshot": (await snapshot(platform))["id"]}
        refused = await platform.call("POST", f"{OWN}/{path}", body)
        assert (refused.status, refused.error["code"]) == (409, "session_busy")
        assert "1 open request" in refused.error["message"]
        forced = await platform.call("POST", f"{OWN}/{path}", {**body, "force": True})
        assert forced.status in (200, 201), forced.body
        assert platform.place.stops["s"] == 1
        await asking


async def test_one_thing_at_a_time(platform: PlatformUnderTest) -> None:
    """Meanwhile a second operation is a 409 that says what is being done; other sessions are not kept."""
    made = await snapshot(platform)
    await write(platform, "other", "x")
    async with copy_held(platform, "POST", f"{OWN}/s:restore", {"snapshot": made["id"]}) as restoring:
        for request in (
            ("POST", f"{OWN}/s/snapshots", {}),
            ("POST", f"{OWN}/s:fork", {}),
            ("DELETE", f"{OWN}/s/snapshots/{made['id']}"),
            ("POST", f"{OWN}/s:move", {"agent_version": "1"}),
        ):
            refused = await platform.call(*request)
            assert (refused.status, refused.error["code"]) == (409, "conflict")
            assert "being restored" in refused.error["message"]
        assert await note(platform, "other") == "x"
    assert (await restoring).status == 200


async def test_a_request_during_a_restore_sees_the_snapshot(platform: PlatformUnderTest) -> None:
    """It waits; the session has one sandbox, on its new home."""
    made = await snapshot(platform)
    await write(platform, "s", "two")
    async with copy_held(platform, "POST", f"{OWN}/s:restore", {"snapshot": made["id"]}):
        asking = asyncio.create_task(note(platform, "s"))
        await asyncio.sleep(0)
    assert await asking == "one"
    assert sum(one.spec.labels["cupola.session"] == "s" for one in platform.place.sandboxes.values()) == 1


async def test_a_restore_whose_session_is_deleted_is_broken_off(platform: PlatformUnderTest) -> None:
    """Whoever waited gets a 409, and no file of the session is left."""
    made = await snapshot(platform)
    async with copy_held(platform, "POST", f"{OWN}/s:restore", {"snapshot": made["id"]}) as restoring:
        assert (await platform.call("DELETE", f"{SESSIONS}/s")).status == 204
    answer = await restoring
    assert (answer.status, answer.error["code"]) == (409, "conflict")
    assert len(platform.place.homes) == 1  # the warm sandbox's


async def test_snapshots_go_with_their_session_unless_kept(platform: PlatformUnderTest) -> None:
    """Kept ones can be listed, forked and deleted by the id of the session that is no more."""
    made = await snapshot(platform)
    assert (await platform.call("DELETE", f"{SESSIONS}/s?keep_snapshots=true")).status == 204
    assert await listed(platform) == [made["id"]]
    assert (await platform.call("POST", f"{OWN}/s:restore", {"snapshot": made["id"]})).status == 404
    forked = await platform.call("POST", f"{OWN}/s:fork", {"snapshot": made["id"], "agent_session_id": "t"})
    assert forked.status == 201, forked.body
    assert await note(platform, "t") == "one"
    assert (await platform.call("DELETE", f"{OWN}/s/snapshots/{made['id']}")).status == 204

    await snapshot(platform, "t")
    assert (await platform.call("DELETE", f"{SESSIONS}/t")).status == 204
    assert len(platform.place.homes) == 1
    assert (await platform.call("GET", f"{OWN}/t/snapshots")).status == 404


async def test_an_agent_takes_every_snapshot_along(platform: PlatformUnderTest) -> None:
    """Kept ones too."""
    await snapshot(platform)
    await platform.call("DELETE", f"{SESSIONS}/s?keep_snapshots=true")
    await write(platform, "t", "x")
    await snapshot(platform, "t")
    assert (await platform.call("DELETE", f"{PROJECT}/agents/a1?force=true")).status == 200
    assert platform.place.homes == {}


async def test_callers_have_their_own_snapshots(platform: PlatformUnderTest) -> None:
    """Another's session is a 403, another's kept snapshot is not there; an operator has all."""
    made = await snapshot(platform)
    ann = platform.caller("ann", Role.USER)
    for request in (
        ("GET", f"{OWN}/s/snapshots"),
        ("POST", f"{OWN}/s/snapshots", {}),
        ("POST", f"{OWN}/s:fork", {}),
        ("POST", f"{OWN}/s:restore", {"snapshot": made["id"]}),
    ):
        refused = await ann(*request)
        assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
    assert (await ann("DELETE", f"{OWN}/s/snapshots/{made['id']}")).status == 404
    await platform.call("DELETE", f"{SESSIONS}/s?keep_snapshots=true")
    await ann("POST", f"{INVOKE}?agent_session_id=s", {"note": "mine"})
    assert await listed(platform, ann) == []
    assert (await ann("POST", f"{OWN}/s:restore", {"snapshot": made["id"]})).status == 404
    assert (await ann("DELETE", f"{SESSIONS}/s")).status == 204
    assert await listed(platform) == [made["id"]]


async def test_an_operator_chooses_whose_the_fork_is(platform: PlatformUnderTest) -> None:
    """The owner of the source by default."""
    ann, operator = platform.caller("ann", Role.USER), platform.caller("op", Role.OPERATOR)
    await ann("POST", f"{INVOKE}?agent_session_id=hers", {"note": "x"})
    for owner, hers in (("same", 200), ("me", 403)):
        made = await operator("POST", f"{OWN}/hers:fork", {"agent_session_id": f"to-{owner}", "owner": owner})
        assert made.status == 201
        assert (await ann("GET", f"{SESSIONS}/to-{owner}")).status == hers


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("s/snapshots", {"note": "x" * 513}, "note"),
        ("s/snapshots", {"note": 1}, "note"),
        ("s/snapshots", {"stop": "yes"}, "stop"),
        ("s/snapshots", {"stopp": True}, "stopp"),
        ("s:restore", {}, "snapshot"),
        ("s:restore", {"snapshot": 1}, "snapshot"),
        ("s:fork", {"agent_session_id": "a b"}, "agent_session_id"),
        ("s:fork", {"owner": "ann"}, "owner"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    platform: PlatformUnderTest, path: str, body: dict[str, Any], param: str
) -> None:
    """The field is named, and nothing is copied."""
    homes = set(platform.place.homes)
    refused = await platform.call("POST", f"{OWN}/{path}", body)
    assert (refused.status, refused.error["param"]) == (400, param), refused.body
    assert set(platform.place.homes) == homes


async def test_a_disabled_agent_forks_nothing(platform: PlatformUnderTest) -> None:
    """What it has can still be kept and restored."""
    made = await snapshot(platform)
    await platform.call("POST", f"{PROJECT}/agents/a1:disable")
    assert (await platform.call("POST", f"{OWN}/s:fork", {})).error["code"] == "agent_disabled"
    assert (await platform.call("POST", f"{OWN}/s:restore", {"snapshot": made["id"]})).status == 200


async def test_an_upload_during_a_restore_is_kept(platform: PlatformUnderTest) -> None:
    """It waits, and lands in the home that the session has then."""
    made = await snapshot(platform)
    files = f"{SESSIONS}/s/files/content?path=uploaded"
    async with copy_held(platform, "POST", f"{OWN}/s:restore", {"snapshot": made["id"]}):
        uploading = asyncio.create_task(platform.call("PUT", files, raw=b"new"))
        await asyncio.sleep(0)
        assert not uploading.done()
    assert (await uploading).status == 201
    assert (await platform.call("GET", files)).body == b"new"
