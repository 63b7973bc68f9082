"""How long an agent's requests took: `GET /cupola/projects/{project}/agents/{agent}/stats`.

The numbers are worked out here, so that every client shows the same. Readers may ask: it says nothing of what was said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import Agent
from cupola.api.owned import agent_of
from cupola.durations import seconds_of
from cupola.errors import BadRequest
from cupola.secrecy import brief
from cupola.store import Store
from cupola.store import timings as rows
from cupola.timings import PARTS, WHOLES, Summary, Timing, summaries
from cupola.web.reply import json_reply

_AT_ONCE = 1_000
"""Rows of one read, which blocks the event loop for some two milliseconds."""
_SINCE = "24h"


class Writing(Protocol):
    """What this module needs of `gateway.timekeeper.Timekeeper`."""

    def write(self) -> None: ...


class Stats:
    """`clock` gives unix seconds."""

    def __init__(self, store: Store, timekeeper: Writing, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._timekeeper = timekeeper
        self._clock = clock

    async def get(self, request: Request) -> Response:
        """`?since=24h&version=`: by version and start type, and by protocol."""
        since, version = request.query_params.get("since") or _SINCE, request.query_params.get("version") or None
        seconds = seconds_of(since)
        if seconds is None:
            raise BadRequest(f"'since' is {brief(since)}; it must be a duration such as 15m, 24h or 7d.", param="since")
        agent = await agent_of(request, self._store)
        now = self._clock()
        found = await timings_since(self._store, self._timekeeper, agent, now - seconds)
        if version is not None:
            found = [timing for timing in found if timing.version == version]
        shown = await asyncio.to_thread(_show, found)
        return json_reply(
            {"object": "cupola.stats", "agent": agent.name, "since": now - seconds, "until": now, **shown}
        )


async def timings_since(store: Store, timekeeper: Writing, agent: Agent, since: float) -> list[Timing]:
    """All of an agent's from that time on, also those that wait to be written."""
    timekeeper.write()
    found: list[Timing] = []
    place: rows.Place | None = (since, 0)
    while place is not None:
        question = partial(rows.next_timings, project=agent.project, agent=agent.name, after=place, limit=_AT_ONCE)
        some, place = await store.read(question)
        found += some
        await asyncio.sleep(0)  # a turn for those who are served meanwhile
    return found


def _show(timings: Sequence[Timing]) -> dict[str, Any]:
    by_start = summaries(timings, lambda timing: (timing.version, timing.start_type.value))
    by_protocol = summaries(timings, lambda timing: (timing.protocol,))
    return {
        "requests": len(timings),
        "errors": sum(timing.is_error for timing in timings),
        "starts": [{"version": s.of[0] or None, "start_type": s.of[1], **_show_summary(s)} for s in by_start],
        "protocols": [{"protocol": s.of[0], **_show_summary(s)} for s in by_protocol],
    }


_SHOWN: Mapping[str, str] = {
    "preprocessing_ms": "platform_preprocessing_ms",
    "infra_setup_ms": "infra_setup_ms",
    "readiness_ms": "container_readiness_ms",
    "response_ms": "container_response_ms",
    "response_begin_ms": "response_begin_ms",
    "last_byte_ms": "total_last_byte_ms",
}
"""Our names of what was measured, as Foundry's headers have them."""


def _show_summary(summary: Summary) -> dict[str, Any]:
    def rounded(name: str) -> dict[str, float]:
        found = summary.milliseconds[name]
        return {"p50": round(found.p50, 3), "p90": round(found.p90, 3), "p99": round(found.p99, 3)}

    return {
        "count": summary.count,
        "errors": summary.errors,
        **{_SHOWN[name]: rounded(name) for name in (*WHOLES, *PARTS)},
        "shares": {_SHOWN[name].removesuffix("_ms"): round(summary.shares[name], 4) for name in PARTS},
    }
