"""The pass that removes expired state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from cupola.callbacks.expiry import StateExpiry
from cupola.store import Store
from cupola.store import state as rows
from tests.store import shapes
from tests.store.shapes import USER


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    opened = Store.open(tmp_path / "cupola.db")
    yield opened
    await opened.aclose()


async def _keep(store: Store, **expiries: float | None) -> None:
    def change(conn: Connection) -> None:
        rows.put_store(conn, shapes.state_store())
        for key, at in expiries.items():
            rows.put_item(conn, shapes.state_store(), USER, shapes.state_item(key, expires_at=at))

    await store.write(change)


async def _exists(store: Store, key: str) -> bool:
    """Whether the row is there, expired or not."""
    return await store.read(lambda c: rows.get_item(c, shapes.state_store(), USER, key, now=0.0)) is not None


async def test_a_pass_removes_all_that_has_expired(store: Store) -> None:
    """However many there are, and nothing else."""
    await _keep(store, **{f"k{number}": 10.0 for number in range(1201)}, alive=11.0, forever=None)
    expiry = StateExpiry(store, clock=lambda: 10.0)
    assert await expiry.once() == 1201
    assert await expiry.once() == 0
    assert [await _exists(store, key) for key in ("k0", "k1200", "alive", "forever")] == [False, False, True, True]


async def test_it_goes_on_after_a_failed_pass(store: Store) -> None:
    """What went wrong is logged, and the next pass does the work."""
    await _keep(store, k=10.0)
    asked, done = list[float](), asyncio.Event()

    def clock() -> float:
        asked.append(1.0)
        if len(asked) == 3:
            done.set()
        if len(asked) == 1:
            raise RuntimeError("the clock is broken")
        return 10.0

    with capture_logs() as logs:
        running = asyncio.create_task(StateExpiry(store, clock, pause=0).run())
        await asyncio.wait_for(done.wait(), 5)
        running.cancel()
        await asyncio.wait([running])
    assert [entry["event"] for entry in logs] == ["a pass failed"]
    assert not await _exists(store, "k")
