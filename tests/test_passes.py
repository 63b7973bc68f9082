"""Background loops go on, whatever becomes of a pass."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from cupola.passes import again_and_again
from tests.support.waiting import wait_until


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_pass_that_fails_is_logged_and_the_next_one_comes(at_once: bool) -> None:
    passes = 0

    async def once() -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            raise ValueError("a defect")

    with capture_logs() as logs:
        loop = asyncio.create_task(again_and_again(once, "things", pause=0.001, at_once=at_once))
        await wait_until(lambda: passes > 2)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    assert [(line["event"], line["over"]) for line in logs] == [("a pass failed", "things")]


async def test_the_first_pass_comes_at_once_where_that_is_asked_for() -> None:
    """Else after a pause."""
    begun: list[bool] = []

    async def run(at_once: bool) -> None:
        async def once() -> None:
            begun.append(at_once)

        await again_and_again(once, "things", pause=3600, at_once=at_once)

    loops = [asyncio.create_task(run(at_once)) for at_once in (False, True)]
    await wait_until(lambda: bool(begun))
    for _ in range(10):
        await asyncio.sleep(0)
    assert begun == [True]
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
