"""What 10,000 sleeping sessions cost: memory, the background passes over them, and a page of their list.

One platform in this process on fake sandboxes, so that nothing but Cupola's own cost is seen. Some of the sessions have
really lived (a start, a request, a stop): what a life leaves behind in memory would show. There is no bare thing to
compare with; the goals are the project's own.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import structlog
from tests.support.agents import ECHO
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform

from benchmarks.report import Goal, print_table
from cupola.sandboxes.expiry import AT_ONCE
from cupola.sessions import LIFETIME, Session
from cupola.store import sessions as rows

SLEEPING = 10_000
LIVED = 500
TIMES = 15

KILOBYTES_AT_MOST, PASS_AT_MOST, PAGE_AT_MOST = 10.0, 200.0, 20.0
"""KB of memory for each session; milliseconds of a pass over all of them, and of a page of the list."""

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


def sessions_at_rest_goals(scratch: Path) -> list[Goal]:
    """All cases; about a minute."""
    quiet = structlog.make_filtering_bound_logger(40)
    structlog.configure(wrapper_class=quiet)
    return asyncio.run(_goals(scratch))


async def _goals(scratch: Path) -> list[Goal]:
    async with open_platform(scratch, ECHO) as platform:
        await platform.create_version()
        await _live_and_sleep(platform, 50, "warm-up")
        await _all_passes(platform)
        before = _memory()
        await _live_and_sleep(platform, LIVED, "lived")
        await _all_passes(platform)
        lived = (_memory() - before) / LIVED / 1000
        await _put(platform, SLEEPING - LIVED)
        await _all_passes(platform)
        all_of_them = (_memory() - before) / SLEEPING / 1000
        goals = [
            _at_most(f"memory of each of {LIVED} sessions after a life, KB", lived, KILOBYTES_AT_MOST),
            _at_most(f"memory of each of {SLEEPING:,} sessions at rest, KB", all_of_them, KILOBYTES_AT_MOST),
        ]
        goals += await _timed(platform)
        platform.clock.now += LIFETIME + 1000
        took = await _milliseconds(platform.platform.expiry.once, times=3)
        goals.append(Goal(f"pass of the expiry that ends {AT_ONCE} sessions, ms", took, None, note="bounded by count"))
        return goals


async def _timed(platform: PlatformUnderTest) -> list[Goal]:
    parts = platform.platform
    middle = f"rest-{(SLEEPING - LIVED) // 2}"
    last = f"rest-{SLEEPING - LIVED - 1}"

    async def page(query: str) -> None:
        answer = await platform.call("GET", f"{SESSIONS}?{query}")
        assert answer.json()["data"]

    return [
        _at_most("pass of the reaper over them, ms", await _milliseconds(parts.reaper.once), PASS_AT_MOST),
        _at_most("pass of the expiry, none due, ms", await _milliseconds(parts.expiry.once), PASS_AT_MOST),
        _at_most("pass over orphans, ms", await _milliseconds(parts.orphans.once), PASS_AT_MOST),
        _at_most("first page of the list, 20, ms", await _milliseconds(lambda: page("limit=20")), PAGE_AT_MOST),
        _at_most(
            "page in the middle, 100, ms", await _milliseconds(lambda: page(f"limit=100&after={middle}")), PAGE_AT_MOST
        ),
        _at_most(
            "page before the end, 100, oldest first, ms",
            await _milliseconds(lambda: page(f"limit=100&order=asc&before={last}")),
            PAGE_AT_MOST,
        ),
    ]


def _at_most(name: str, figure: float, limit: float) -> Goal:
    return Goal(name, round(figure, 3), None, f"< {limit:g}", figure < limit, f"{SLEEPING:,} sessions asleep")


async def _milliseconds(work: Callable[[], Awaitable[None]], times: int = TIMES) -> float:
    """The median, on a machine that does other things as well."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def _live_and_sleep(platform: PlatformUnderTest, many: int, name: str) -> None:
    """Whole lives: each starts, answers a request, and is stopped."""
    for number in range(many):
        await platform.hear(agent_session_id=f"{name}-{number}")
        await platform.call("POST", f"{SESSIONS}/{name}-{number}:stop")


async def _put(platform: PlatformUnderTest, many: int) -> None:
    """Rows as lives leave them, without the lives."""
    pattern = await platform.store.read(lambda conn: rows.get_session(conn, "demo", "a1", "lived-0"))
    assert pattern is not None
    found: Session = pattern

    def put(conn: Any) -> None:
        for number in range(many):
            rows.put_session(conn, replace(found, id=f"rest-{number}", guid=f"g{number}", home=f"h{number}"))

    await platform.store.write(put)


async def _all_passes(platform: PlatformUnderTest) -> None:
    parts = platform.platform
    platform.clock.now += 1000
    for once in (parts.reaper.once, parts.expiry.once, parts.orphans.once):
        await once()
    await platform.call("GET", f"{SESSIONS}?limit=100")


def _memory() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="cupola-bench-") as directory:
        print_table(sessions_at_rest_goals(Path(directory)))
