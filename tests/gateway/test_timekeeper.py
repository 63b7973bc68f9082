"""Keeping timings: many at a time, off the request's path, and not for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from cupola.gateway.timekeeper import Timekeeper
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import timings as rows
from cupola.timings import SessionStart, Timing
from tests.store import shapes
from tests.support.agents import ECHO
from tests.support.platform import open_platform

DAY = 86_400.0


def timing(began_at: float, agent: str = "a1") -> Timing:
    return Timing(
        "demo", agent, "1", "s", f"r-{began_at:g}", "invocations", SessionStart.WARM, 200, began_at, 1, 0, 0, 2, 3, 4
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store.open(tmp_path / "cupola.db")
    yield store
    await store.aclose()


async def kept(store: Store, agent: str = "a1") -> list[float]:
    found, _ = await store.read(lambda conn: rows.next_timings(conn, "demo", agent, (0.0, 0), 10_000))
    return [one.began_at for one in found]


async def test_what_waits_is_written_together(store: Store) -> None:
    """Nothing before it is told to, or before it is many; all of it, in order, whatever the number."""
    keeper = Timekeeper(store, days=1, most=10_000)
    for number in range(1999):
        keeper.keep(timing(number))
    assert await kept(store) == []
    keeper.keep(timing(1999))
    assert await kept(store) == [float(number) for number in range(2000)]
    keeper.keep(timing(2000))
    keeper.write()
    assert (await kept(store))[-1] == 2000


async def test_old_ones_and_those_beyond_the_limit_are_forgotten(store: Store) -> None:
    """By days for all agents, by number for each."""
    now = 100 * DAY
    for name in ("a1", "old"):
        await store.write(partial(agent_rows.put_agent, agent=shapes.agent(name, "demo")))
    keeper = Timekeeper(store, days=2, most=3, clock=lambda: now)
    for began_at in (now - 3 * DAY, now - 2.5 * DAY):
        keeper.keep(timing(began_at, "old"))
    for second in range(5):
        keeper.keep(timing(now - second))
    keeper.write()
    assert await keeper.sweep() == 4
    assert await kept(store, "old") == []
    assert await kept(store) == [now - 2, now - 1, now]
    assert await keeper.sweep() == 0


async def test_what_waits_is_written_when_the_platform_stops(tmp_path: Path) -> None:
    """Only a crash loses it."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        await platform.hear()
        path = platform.installation.layout.database
        assert await kept(platform.store) == []
    store = Store.open(path)
    try:
        assert len(await kept(store)) == 1
    finally:
        await store.aclose()
