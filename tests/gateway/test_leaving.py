"""Who listens whether a caller leaves, and from when on."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from cupola.gateway import leaving as module
from cupola.gateway.leaving import CallerWatch, Leaving
from tests.support.waiting import wait_until


class Listened:
    """A caller who stays until he is told to leave, and knows whether anybody listens."""

    def __init__(self) -> None:
        self.count = 0
        self.leaves = asyncio.Event()

    async def receive(self) -> Message:
        self.count += 1
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_nobody_listens_to_who_is_answered_at_once() -> None:
    """It would cost a task for each request; the timer stops with the last who waits."""
    leaving, caller = Leaving(), Listened()
    with CallerWatch(leaving, caller.receive) as watch:
        watch.start()
    await wait_until(lambda: not leaving.is_looking)
    assert caller.count == 0


async def test_of_many_who_wait_the_one_who_leaves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timer is enough for all, also for who comes later; each is listened to once."""
    monkeypatch.setattr(module, "WATCH_AFTER", 0.001)
    leaving, callers, ended = Leaving(), [Listened() for _ in range(5)], []

    async def wait(number: int) -> None:
        with CallerWatch(leaving, callers[number].receive) as watch:
            watch.start()
            await asyncio.Event().wait()
        ended.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(4)]
    await wait_until(lambda: [caller.count for caller in callers] == [1, 1, 1, 1, 0])
    waiting.append(asyncio.create_task(wait(4)))
    await wait_until(lambda: callers[4].count == 1)
    await wait_until(lambda: not leaving.is_looking)
    assert [caller.count for caller in callers] == [1] * 5
    callers[2].leaves.set()
    await waiting[2]
    assert ended == [2]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert ended == [2]
