"""Measures every request to an agent, keeps what was found, and tells it to callers who ask.

It stands between the edge that makes replies of errors and everything else, so that signing in counts and failures are
kept as well. Callers ask by a header; Foundry answers with headers as well, in whole milliseconds (docs/wire-notes.md).
As there, they are on replies that are no failures, and none are on WebSockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupola.errors import CupolaError, SessionNotReady
from cupola.timings import CALLER_LEFT, SessionStart, Split, Stopwatch, Timing
from cupola.web.errors import BEGINNINGS, status_of

_ASKED = (b"x-ms-debug-latency-enabled", b"true")
_PREFIX = b"x-ms-debug-latency-"
_ACCEPTED, _UPGRADED, _FAILED = 202, 101, 500

Keep = Callable[[Timing], None]


class TimingEdge:
    """Puts `cupola.stopwatch` into the scope, and gives `keep` what it shows in the end.

    `clock` gives unix seconds, `ticks` those of a monotonic clock.
    """

    def __init__(
        self,
        app: ASGIApp,
        keep: Keep,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._keep = keep
        self._clock = clock
        self._ticks = ticks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        watch = scope["cupola.stopwatch"] = Stopwatch(self._ticks())
        began_at = self._clock()

        async def timed(message: Message) -> None:
            if watch.head is None and message["type"] in BEGINNINGS:
                watch.head = self._ticks()
                watch.status = message.get("status", _UPGRADED)
                if scope["type"] == "http" and (told := _told(watch, scope, watch.head)):
                    message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        try:
            await self._app(scope, receive, timed)
        except CupolaError as error:
            if watch.head is None:
                _failed(watch, error)
            raise
        except Exception:
            watch.status = watch.status or _FAILED
            raise
        finally:
            if watch.protocol:
                self._keep(_timing(watch, scope, began_at, self._ticks()))


def _failed(watch: Stopwatch, error: CupolaError) -> None:
    """What is known of a request that did not come to a reply of its own."""
    watch.status = status_of(error)
    watch.session = watch.session or error.extra.get("agent_session_id") or ""
    watch.version = watch.version or error.extra.get("agent_version") or ""
    if isinstance(error, SessionNotReady):
        watch.start = error.start


def _timing(watch: Stopwatch, scope: Scope, began_at: float, now: float) -> Timing:
    """Fields by their places: this is done for every request."""
    began = watch.began
    head = now if watch.head is None else watch.head
    found = watch.split(head)
    return Timing(
        watch.project,
        watch.agent,
        watch.version,
        watch.session or scope.get("cupola.session_id") or "",
        scope["cupola.request_id"],
        watch.protocol,
        found.type,
        watch.status or CALLER_LEFT,
        began_at,
        found.preprocessing * 1000,
        found.infra_setup * 1000,
        found.readiness * 1000,
        found.response * 1000,
        (head - began) * 1000,
        (now - began) * 1000,
        watch.subject if _ASKED in scope["headers"] else None,
    )


def _told(watch: Stopwatch, scope: Scope, head: float) -> list[tuple[bytes, bytes]]:
    """The headers of a reply: of this request, if it asks, or of an earlier one, whose work it looks at."""
    if watch.status >= 400:
        return []
    if watch.then is not None:
        told = _headers(watch.then.split, detached=watch.detached or watch.then.status == _ACCEPTED)
        return [*told, (_PREFIX + b"total-last-byte-ms", b"%d" % round(watch.then.last_byte_ms))]
    if not watch.protocol or _ASKED not in scope["headers"]:
        return []
    return _headers(watch.split(head), detached=watch.detached or watch.status == _ACCEPTED)


def _headers(found: Split, *, detached: bool) -> list[tuple[bytes, bytes]]:
    """A split for a caller; of a reply that is only an acknowledgement, what the platform has taken."""
    preprocessing, infra, readiness, response, whole = found.milliseconds()
    told: list[tuple[bytes, bytes]] = [(b"session-start-type", found.type.encode())]
    told.append((b"platform-preprocessing-ms", b"%d" % preprocessing))
    if found.type is not SessionStart.WARM:
        told += [(b"infra-setup-ms", b"%d" % infra), (b"container-readiness-ms", b"%d" % readiness)]
    if not detached:
        told += [(b"container-response-ms", b"%d" % response), (b"response-begin-ms", b"%d" % whole)]
    return [(_PREFIX + name, value) for name, value in told]
