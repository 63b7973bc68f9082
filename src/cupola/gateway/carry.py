"""One request carried to a live sandbox, with the accounting around it.

A sandbox that turns out to be dead before it has answered is replaced once: the request was not served, so sending it
again repeats nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
from starlette.types import Receive, Scope, Send

from cupola.errors import SandboxLost
from cupola.gateway.dialects import headers_for
from cupola.gateway.headers import Header, find
from cupola.gateway.leaving import Leaving
from cupola.gateway.proxy import OnChunk, OnLost, OnWhole, Outcome, Silence, forward
from cupola.gateway.upstream import Body, Upstream
from cupola.identity import Call, Caller
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sandboxes.ready import Sandboxes
from cupola.timings import Stopwatch

log = structlog.get_logger()

CallIds = Callable[[Call], str]


class Carrier:
    """Carries requests. `call_ids` mints the ids under which containers call back."""

    def __init__(
        self,
        upstream: Upstream,
        sandboxes: Sandboxes,
        call_ids: CallIds,
        clock: Callable[[], float] = time.time,
        silence: Silence = Silence(),  # noqa: B008 (frozen)
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leaving = Leaving()
        self._ticks = ticks
        self._silence = silence
        self._upstream = upstream
        self._sandboxes = sandboxes
        self._call_ids = call_ids
        self._clock = clock

    async def carry(
        self,
        live: LiveSandbox,
        again: Callable[[], Awaitable[LiveSandbox]],
        *,
        method: str,
        target: bytes,
        headers: list[Header],
        body: Body,
        scope: Scope,
        receive: Receive,
        send: Send,
        reply_headers: list[Header],
        on_chunk: OnChunk | None = None,
        on_whole: OnWhole | None = None,
        on_lost: OnLost | None = None,
        on_end: OnLost | None = None,
    ) -> Outcome:
        """Forwards to `live`; if that is dead before it answered, to what `again` gives, once.

        From `opened` on nothing stops it for being idle; one that is being stopped by then is waited for and replaced.
        """
        for last_try in (False, True):
            while live.stopping:
                live = await again()
            scope["cupola.session_id"] = live.row.session_id
            watch: Stopwatch = scope["cupola.stopwatch"]
            watch.forwards(self._ticks(), live.row.version, live.row.session_id, live.start)
            live.opened(self._clock())
            try:
                outcome = await forward(
                    self._upstream,
                    live.address,
                    method=method,
                    target=target,
                    headers=headers,
                    body=body,
                    send=send,
                    receive=receive,
                    extra_reply_headers=reply_headers,
                    on_head=partial(_log_failure, live),
                    on_chunk=on_chunk,
                    on_whole=on_whole,
                    on_lost=on_lost,
                    on_end=on_end,
                    silence=self._silence,
                    leaving=self._leaving,
                )
            except SandboxLost as error:
                if live.ending is not None:
                    raise live.ending from error
                alive = await self._sandboxes.stops.check(live)
                if alive or last_try or not isinstance(body, bytes):
                    raise
            else:
                if outcome is Outcome.UPSTREAM_LOST:
                    await self._sandboxes.stops.check(live)
                return outcome
            finally:
                live.closed(self._clock())
            await self._upstream.forget(live.address)
            live = await again()
        raise AssertionError("unreachable: the last try returns or raises")

    async def ask(self, live: LiveSandbox, user: str, method: str, target: bytes, timeout: float) -> tuple[int, bytes]:
        """A question of the platform's own, on behalf of `user`: status and body of the answer.

        It is no activity of the session. Raises SandboxLost, also when no answer comes within `timeout` seconds.
        """
        call_id = self._call_ids(Call(user, live.row.agent, live.row.session_id))
        headers = headers_for((), live, "responses", user, call_id)
        try:
            async with asyncio.timeout(timeout):
                reply = await self._upstream.request(live.address, method, target, headers, b"")
                try:
                    return reply.status, await reply.read()
                finally:
                    await reply.aclose()
        except TimeoutError as error:
            raise SandboxLost(f"The agent's container did not answer within {timeout:g} s.") from error

    async def still_runs(self, live: LiveSandbox) -> bool:
        """Looks at a sandbox that did not answer; one that has ended is buried."""
        return await self._sandboxes.stops.check(live)

    def runs(self, live: LiveSandbox) -> bool:
        """Whether a sandbox still serves its session."""
        return live.session is not None and self._sandboxes.live_of(live.session.key) is live

    def live(self, key: SessionKey) -> LiveSandbox | None:
        """The sandbox of a session if it runs; nothing is started."""
        return self._sandboxes.live_of(key)

    def headers(self, scope: Scope, live: LiveSandbox, caller: Caller, protocol: str) -> list[Header]:
        """What a container is told beside the body: see `dialects.headers_for`."""
        call_id = self._call_ids(Call(caller.user, live.row.agent, live.row.session_id))
        return headers_for(scope["headers"], live, protocol, caller.user, call_id)


def _log_failure(live: LiveSandbox, status: int, headers: Sequence[Header]) -> None:
    """A container's own account of a failure is for this log; the caller does not get it."""
    if status < 500:
        return
    source, detail = (find(headers, b"x-platform-error-" + part) for part in (b"source", b"detail"))
    log.warning(
        "the agent answered with an error",
        status=status,
        agent=live.row.agent,
        session=live.row.session_id,
        source=None if source is None else source.decode("latin-1"),
        detail=None if detail is None else detail.decode("latin-1"),
    )
