"""SIGKILL at each step of a snapshot, a restore, a fork and a deletion: no home lost, none without an owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cupola.snapshots import SnapshotState
from cupola.store import Page
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as snapshot_rows
from tests.support.files import WRITER, note, write
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

OWN = "/cupola/projects/demo/agents/a1/sessions"
SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    """The session `s` with the note "two", and a snapshot of when it was "one"."""
    async with open_platform(tmp_path, WRITER) as under_test:
        await under_test.create_version()
        await write(under_test, "s", "one")
        made = await under_test.call("POST", f"{OWN}/s/snapshots", {})
        assert made.status == 201
        await write(under_test, "s", "two")
        yield under_test


async def snapshot_id(platform: PlatformUnderTest) -> str:
    (made,) = (await platform.call("GET", f"{OWN}/s/snapshots")).json()["data"]
    return str(made["id"])


async def owned(platform: PlatformUnderTest) -> set[str]:
    """The homes that a session, a snapshot or a warm sandbox owns."""

    def question(conn: Any) -> set[str]:
        everything = Page(-1)
        sessions = session_rows.list_sessions(conn, "demo", "a1", everything).items
        homes = {session.home for session in sessions}
        for session in {*(session.id for session in sessions), "s"}:
            kept = snapshot_rows.list_snapshots(conn, "demo", "a1", session, everything).items
            homes |= {snapshot.home for snapshot in kept if snapshot.state is SnapshotState.READY}
        return homes | {row.home for row in sandbox_rows.all_sandboxes(conn)}

    return await platform.store.read(question)


async def kill_at(platform: PlatformUnderTest, when: Callable[[], bool], *request: Any) -> None:
    """Sends a request, kills the platform as soon as `when` holds, and starts it again."""
    asking = asyncio.create_task(platform.call(*request))
    await wait_until(when)
    await platform.crash()
    asking.cancel()
    await asyncio.wait([asking])
    platform.place.copies_held = None
    await platform.open()


async def kill_while_copying(platform: PlatformUnderTest, *request: Any) -> None:
    platform.place.copies_held, platform.place.copying = asyncio.Event(), asyncio.Event()
    await kill_at(platform, platform.place.copying.is_set, *request)


async def kill_after_write(
    platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch, writes: int, *request: Any
) -> None:
    """Kills the platform right after it has committed `writes` times in a request (the first is 1)."""
    committed, write = 0, platform.store.write
    killing = asyncio.Event()

    async def counting(change: Callable[[Any], Any]) -> Any:
        nonlocal committed
        done = await write(change)
        committed += 1
        if committed == writes:
            killing.set()
            await asyncio.Event().wait()  # this process does nothing more
        return done

    monkeypatch.setattr(platform.store, "write", counting)
    await kill_at(platform, killing.is_set, *request)


@pytest.mark.parametrize(
    ("path", "body"), [("s/snapshots", {}), ("s:restore", {"snapshot": ""}), ("s:fork", {"agent_session_id": "t"})]
)
async def test_killed_while_a_home_is_copied(platform: PlatformUnderTest, path: str, body: dict[str, Any]) -> None:
    """What was half copied is gone, and the session is as it was."""
    if "snapshot" in body:
        body = {"snapshot": await snapshot_id(platform)}
    await kill_while_copying(platform, "POST", f"{OWN}/{path}", body)
    assert set(platform.place.homes) == await owned(platform)
    assert await note(platform, "s") == "two"
    assert await snapshot_id(platform)
    again = await platform.call("POST", f"{OWN}/{path}", body)
    assert again.status in (200, 201)
    assert set(platform.place.homes) == await owned(platform)


@pytest.mark.parametrize(("writes", "kept"), [(1, 1), (2, 2)])
async def test_a_snapshot_is_whole_or_not_there(
    platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch, writes: int, kept: int
) -> None:
    """Killed after its row, before the copy; and after the commit that makes it one."""
    await kill_after_write(platform, monkeypatch, writes, "POST", f"{OWN}/s/snapshots", {})
    assert len((await platform.call("GET", f"{OWN}/s/snapshots")).json()["data"]) == kept
    assert set(platform.place.homes) == await owned(platform)


async def commits_of(tmp_path: Path, path: str, body: dict[str, Any]) -> int:
    """How often the platform commits in a request, when nothing kills it."""
    async with open_platform(tmp_path, WRITER) as platform:
        await platform.create_version()
        await write(platform, "s", "one")
        made = (await platform.call("POST", f"{OWN}/s/snapshots", {})).json()
        body = {**body, **({"snapshot": made["id"]} if "snapshot" in body else {})}
        committed, original = 0, platform.store.write

        async def counting(change: Callable[[Any], Any]) -> Any:
            nonlocal committed
            committed += 1
            return await original(change)

        platform.store.write = counting  # type: ignore[method-assign]  # this store is thrown away
        assert (await platform.call("POST", f"{OWN}/{path}", body)).status in (200, 201)
        return committed


@pytest.mark.parametrize("writes", range(1, 6))
async def test_a_restore_is_done_or_not(
    tmp_path: Path, platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed after each of its commits: the session has its old files or those of the snapshot, and one home."""
    body = {"snapshot": await snapshot_id(platform)}
    assert await commits_of(tmp_path / "counting", "s:restore", body) == 5  # stopped (2), row, switched, row gone
    await kill_after_write(platform, monkeypatch, writes, "POST", f"{OWN}/s:restore", body)
    assert set(platform.place.homes) == await owned(platform)
    assert await note(platform, "s") == ("two" if writes < 4 else "one")
    assert await snapshot_id(platform) == body["snapshot"]


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_fork_is_there_or_not(
    tmp_path: Path, platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed after each of its commits: no session, or a whole one."""
    body = {"agent_session_id": "t"}
    assert await commits_of(tmp_path / "counting", "s:fork", body) == 2
    await kill_after_write(platform, monkeypatch, writes, "POST", f"{OWN}/s:fork", body)
    assert (await platform.call("GET", f"{SESSIONS}/t")).status == (404 if writes == 1 else 200)
    assert set(platform.place.homes) == await owned(platform)
    assert await note(platform, "s") == "two"


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_snapshot_that_was_being_deleted_is_gone(
    platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Its deletion was committed first."""
    path = f"{OWN}/s/snapshots/{await snapshot_id(platform)}"
    await kill_after_write(platform, monkeypatch, writes, "DELETE", path)
    assert (await platform.call("GET", f"{OWN}/s/snapshots")).json()["data"] == []
    assert set(platform.place.homes) == await owned(platform)


async def test_a_session_that_was_being_deleted_takes_its_snapshots(
    platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after it was marked."""
    await kill_after_write(platform, monkeypatch, 1, "DELETE", f"{SESSIONS}/s")
    assert (await platform.call("GET", f"{SESSIONS}/s")).status == 404
    assert await platform.store.read(_unfinished) == []
    assert set(platform.place.homes) == await owned(platform)


def _unfinished(conn: Any) -> list[Any]:
    return snapshot_rows.unfinished_snapshots(conn)


async def test_a_home_whose_driver_is_away_keeps_its_row(platform: PlatformUnderTest) -> None:
    """It is removed by the first start that reaches the driver."""
    path = f"{OWN}/s/snapshots/{await snapshot_id(platform)}"
    platform.driver.no_deletions = True
    assert (await platform.call("DELETE", path)).status == 204
    assert len(await platform.store.read(_unfinished)) == 1
    await platform.restart()
    assert await platform.store.read(_unfinished) == []
    assert set(platform.place.homes) == await owned(platform)


async def test_a_copy_that_fails_leaves_nothing(platform: PlatformUnderTest) -> None:
    """The caller learns why."""
    platform.driver.no_copies = True
    answer = await platform.call("POST", f"{OWN}/s/snapshots", {})
    assert (answer.status, answer.error["code"]) == (503, "driver_unavailable")
    assert await platform.store.read(_unfinished) == []
    assert set(platform.place.homes) == await owned(platform)
    assert await note(platform, "s") == "two"


async def test_no_snapshot_is_made_of_a_session_that_goes(platform: PlatformUnderTest) -> None:
    """Marked as deleted while it is copied: the copy goes too."""
    platform.place.copies_held, platform.place.copying = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(platform.call("POST", f"{OWN}/s/snapshots", {}))
    await platform.place.copying.wait()
    homes = set(platform.place.homes)

    def mark(conn: Any) -> None:
        known = session_rows.get_session(conn, "demo", "a1", "s")
        assert known is not None
        session_rows.put_session(conn, known.to_deleted())

    await platform.store.write(mark)
    platform.place.copies_held.set()
    assert (await asking).status == 404
    assert len(homes - set(platform.place.homes)) == 1
    assert await platform.store.read(_unfinished) == []


async def test_the_platform_stops_in_the_middle_of_a_copy(platform: PlatformUnderTest) -> None:
    """The copy is broken off and removed, and whoever waited is told."""
    platform.place.copies_held, platform.place.copying = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(platform.call("POST", f"{OWN}/s/snapshots", {}))
    await platform.place.copying.wait()
    await platform.platform.homes.aclose()
    answer = await asking
    assert answer.status == 409
    assert "the platform stops" in answer.error["message"]
    platform.place.copies_held = None
    assert set(platform.place.homes) == await owned(platform)


async def test_a_caller_who_leaves_does_not_break_a_copy_off(platform: PlatformUnderTest) -> None:
    """It goes on, and the snapshot is there."""
    platform.place.copies_held, platform.place.copying = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(platform.call("POST", f"{OWN}/s/snapshots", {}))
    await platform.place.copying.wait()
    asking.cancel()
    await asyncio.wait([asking])
    platform.place.copies_held.set()
    await platform.platform.sandboxes.occupied.settled(("demo", "a1", "s"))
    made = (await platform.call("GET", f"{OWN}/s/snapshots")).json()["data"]
    assert [each["status"] for each in made] == ["ready", "ready"]
