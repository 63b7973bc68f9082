"""Background responses: they go on when their caller has left, and end in the store whoever ends them.

A streamed one is read to its end by a task of its own, and reaches the caller for as long as he listens. One that was
answered with `in_progress` is followed: containers on the adapters store its last word themselves, a plain container
is asked again and again until it has one, or knows it no more. Until then it keeps its sandbox from going idle
(container-contract.md §3.2, §7.18).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import structlog
from starlette.types import Message, Receive, Send

from cupola.conversations import FINAL_STATUSES, StoredResponse
from cupola.errors import CupolaError, SandboxLost
from cupola.gateway.answer import container_id, defaults, filled
from cupola.gateway.carry import Carrier
from cupola.gateway.record import Recorder
from cupola.sandboxes.live import LiveSandbox
from cupola.store import Store
from cupola.store import responses as rows
from cupola.web.stream import until_left

log = structlog.get_logger()

NOT_THERE = frozenset({404, 405, 410, 501})
"""What containers answer that do not know a response, or no such question."""

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """How a container is asked after its background responses: the pause grows from `first` to `longest` seconds.

    It may say `denials` times in a row that it knows nothing (a response may be visible a moment late), and give
    `failures` answers that make no sense.
    """

    first: float = 0.2
    longest: float = 5.0
    denials: int = 5
    failures: int = 12


class Relay:
    """A caller's `send` while he is there; afterwards nobody's."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.left = False

    async def __call__(self, message: Message) -> None:
        if not self.left:
            await self._send(message)


async def stays() -> Message:
    """The `receive` of a caller who never leaves."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable: nobody sets the event")


class Background:
    """Keeps background responses going. `clock` gives unix seconds."""

    def __init__(
        self,
        store: Store,
        carrier: Carrier,
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
        pauses: Pauses = Pauses(),
    ) -> None:
        self._store = store
        self._carrier = carrier
        self._recorder = recorder
        self._clock = clock
        self.pauses = pauses
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self, work: Coroutine[Any, Any, None], receive: Receive, relay: Relay) -> None:
        """Runs `work`, which answers through `relay`, to its end; returns as soon as the caller has left."""
        task = self._begin(work)
        leaving = asyncio.create_task(until_left(receive))
        heard = False
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            heard = task.done()
        finally:
            leaving.cancel()
            relay.left = not heard
            if not heard:
                task.add_done_callback(_log_failure)
        if heard:
            task.result()

    def follow(self, live: LiveSandbox, response: StoredResponse) -> None:
        """Follows a stored response until it has ended, in a task of its own."""
        if self._closed:
            return
        live.background.add(response.id)
        self._begin(self._follow(live, response)).add_done_callback(_log_failure)

    async def aclose(self) -> None:
        """Lets go of all that runs; what is unfinished stays so in the store."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(self, live: LiveSandbox, response: StoredResponse) -> None:
        pause, denied, failed = self.pauses.first, 0, 0
        try:
            while await self._is_unfinished(response) and self._carrier.runs(live):
                status, body = await self._ask(live, response)
                if status == 200 and body.get("status") in FINAL_STATUSES:
                    await self._recorder.end(response, self._filled(response, body))
                    return
                denied = denied + 1 if status in NOT_THERE else 0
                failed = 0 if status in NOT_THERE or "status" in body else failed + 1
                if denied >= self.pauses.denials:
                    reason = f"The agent's container does not know this response any more (it answers {status})."
                elif failed >= self.pauses.failures:
                    reason = f"The agent's container does not say what became of this response (it answers {status})."
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, self.pauses.longest)
                    continue
                if await self._is_unfinished(response):
                    log.warning("background response given up", response=response.id, reason=reason)
                    await self._recorder.fail(response, reason)
                return
        finally:
            live.background.discard(response.id)
            live.last = self._clock()

    async def _is_unfinished(self, response: StoredResponse) -> bool:
        found = await self._store.read(lambda conn: rows.get_response(conn, response.project, response.id))
        return found is not None and not found.is_final

    async def _ask(self, live: LiveSandbox, response: StoredResponse) -> tuple[int, Mapping[str, Any]]:
        """Status (0 for no answer) and object that the container gives for the response."""
        target = f"/responses/{quote(container_id(response), safe='')}".encode()
        try:
            status, raw = await self._carrier.ask(live, response.user, "GET", target, _ANSWER_SECONDS)
        except SandboxLost:
            await self._carrier.still_runs(live)
            return 0, {}
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return status, {}
        return status, body if isinstance(body, dict) else {}

    def _filled(self, response: StoredResponse, body: Mapping[str, Any]) -> dict[str, Any]:
        start = {**defaults({}, response), **response.body}
        return filled(start, response, body, "completed", self._clock())


def _log_failure(task: asyncio.Task[None]) -> None:
    """Nobody is there any more to be told."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, CupolaError):
        log.warning("a background response was not followed to its end", code=error.code, reason=error.message)
    elif error is not None:
        log.error("a background response was not followed to its end", exc_info=error)
