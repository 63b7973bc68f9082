"""Short runs of `make test-kill`, so that neither it nor what it guards rots between the long ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cupola.store import sessions as session_rows
from tests.kill.counts import Counts
from tests.kill.fake import InProcess, kill_on_fake, opened
from tests.kill.invariants_in_process import AGENTS, InvariantsInProcess
from tests.kill.mortal import MortalPlatform
from tests.kill.promises import Promises
from tests.kill.served import kill_on_served
from tests.kill.workload import endpoint
from tests.support.served import require_engine


async def test_kills_on_fake_sandboxes(tmp_path: Path) -> None:
    """Nothing that was promised is lost, nothing is left over, every refusal makes sense."""
    counts = Counts()
    await kill_on_fake(tmp_path, 7, 15, counts)
    assert counts.wrong == []
    assert counts.rounds["fake"] == 15
    assert counts.kept["sessions"] > 15


@pytest.mark.e2e
async def test_kills_on_processes(tmp_path: Path) -> None:
    """The same of a real server and real processes."""
    counts = Counts()
    await kill_on_served(tmp_path, "process", 7, 2, counts)
    assert counts.wrong == []
    assert counts.rounds["process"] == 2


@pytest.mark.e2e
@pytest.mark.engine
async def test_kills_on_containers(tmp_path: Path) -> None:
    """The same of containers."""
    await asyncio.to_thread(require_engine)
    counts = Counts()
    await kill_on_served(tmp_path, "docker", 7, 1, counts)
    assert counts.wrong == []
    assert counts.rounds["docker"] == 1


async def lose_a_session(platform: MortalPlatform) -> None:
    await platform.store.write(lambda conn: session_rows.delete_session(conn, "demo", "a1", "s"))


async def lose_a_file(platform: MortalPlatform) -> None:
    for files in platform.place.homes.values():
        files.clear()


async def leave_a_home(platform: MortalPlatform) -> None:
    platform.place.homes["nobody"] = {}


@pytest.mark.parametrize(
    ("damage", "losses", "orphans"),
    [(lose_a_session, True, True), (lose_a_file, True, False), (leave_a_home, False, True)],
)
async def test_damage_is_seen(
    tmp_path: Path, damage: Callable[[MortalPlatform], Awaitable[None]], losses: bool, orphans: bool
) -> None:
    """What is done behind the platform's back is counted: the counts can be other than nothing."""
    counts, promises = Counts(), Promises()
    async with opened(tmp_path, random.Random(1)) as platform:
        workload = InProcess(platform, promises, counts, random.Random(1))
        for agent in AGENTS:
            await workload.create_version(agent)
            await platform.settled(agent, "1")
        path = f"{endpoint('a1')}/protocols/invocations?agent_session_id=s"
        assert (await platform.request("POST", path, {"keep": "f"})).status == 200
        promises.session("a1", "s").kept.add("f")
        invariants = InvariantsInProcess(platform, promises, counts, random.Random(1))
        await invariants.look("before")
        assert counts.wrong == []
        await damage(platform)
        await invariants.look("after")
    assert (counts.losses != [], counts.orphans != []) == (losses, orphans)
