"""Carries one request to a sandbox and its reply back, byte for byte, as ASGI messages.

Streams are never buffered: what the sandbox has written goes on at once, and a slow caller slows the sandbox
down. Beside the bytes this module watches three things: the caller may leave (the sandbox then sees its
connection close, which ends a foreground run), the sandbox may be lost, and an event stream may be silent for
so long that something on the way would cut it.

It knows neither agents nor sessions: which sandbox, which headers and what a loss looks like in the protocol
at hand are its callers' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from enum import StrEnum
from types import TracebackType
from typing import Protocol

from starlette.types import Receive, Send

from cupola.drivers.base import Address
from cupola.errors import SandboxLost
from cupola.gateway.headers import Header, find, to_caller
from cupola.gateway.reply import Reply
from cupola.gateway.upstream import Body

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events: every client skips it."""

KEEP_ALIVE_SECONDS = 15.0
"""Load balancers and clients cut connections that are silent for 30 to 60 s; half of the least is safe."""

WATCH_AFTER = 0.05
"""Seconds until somebody listens whether the caller leaves. Most replies are there before, and need no
watching."""

_BODILESS = frozenset({204, 304})


OnChunk = Callable[[bytes], Awaitable[object] | None]
OnWhole = Callable[[int, bytes], Awaitable[bytes]]
OnLost = Callable[[], Awaitable[bytes | None]]


class Outcome(StrEnum):
    """How the carrying ended."""

    COMPLETE = "complete"
    CALLER_LEFT = "caller_left"
    UPSTREAM_LOST = "upstream_lost"


class Requester(Protocol):
    """What this module needs of `upstream.Upstream`."""

    async def request(
        self, address: Address, method: str, target: bytes, headers: Sequence[Header], body: Body
    ) -> Reply: ...


class _CallerLeft(Exception):
    """The caller went away while his request was still being read."""


async def caller_body(receive: Receive) -> AsyncIterator[bytes]:
    """A request's body as it comes, for `forward`, which notices when the caller leaves halfway."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CallerLeft
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def forward(
    upstream: Requester,
    address: Address,
    *,
    method: str,
    target: bytes,
    headers: Sequence[Header],
    body: Body,
    send: Send,
    receive: Receive,
    extra_reply_headers: Sequence[Header] = (),
    on_head: Callable[[int, Sequence[Header]], None] | None = None,
    on_chunk: OnChunk | None = None,
    on_whole: OnWhole | None = None,
    on_lost: OnLost | None = None,
    on_end: OnLost | None = None,
    keepalive: float = KEEP_ALIVE_SECONDS,
) -> Outcome:
    """Sends the request, then the reply to the caller, until one of the three ends it.

    `headers` go to the sandbox as they are; of the reply's, `headers.to_caller` decides, and
    `extra_reply_headers` are added. `on_head` sees status and headers as the sandbox sent them, `on_chunk`
    every piece of the body; both before the caller does, and must not raise. What `on_chunk` returns is awaited
    before the piece goes on. With `on_whole`, a reply that is no event stream is read to its end, and the caller
    gets what `on_whole` makes of it.

    A sandbox lost before its reply began raises `SandboxLost`, and nothing was sent. Lost later, an event
    stream ends with what `on_lost` returns; without that the reply is left unfinished, and the server cuts
    the caller's connection, so that nobody takes a part for the whole. An event stream that came to its end gets
    what `on_end` adds: a reply that ends with its connection looks the same when the sandbox was killed.
    """
    with _CallerWatch(receive) as watch:
        reply = await _ask(upstream, address, method, target, headers, body, watch)
        try:
            if on_head is not None:
                on_head(reply.status, reply.headers)
            out = to_caller(reply.headers)
            out.extend(extra_reply_headers)
            whole = reply.complete
            if on_whole is not None and not _is_events(reply):
                whole = await on_whole(reply.status, await reply.read())
                out = [header for header in out if header[0] not in (b"content-length", b"content-encoding")]
                on_chunk = None
            if whole is not None:
                if on_chunk is not None and whole:
                    await _seen(on_chunk, whole)
                last = await _added_at_end(reply, True, on_end)
                if last is not None:
                    whole += _behind(whole, last)
                await _send_whole(method, reply.status, out, whole, send)
                return Outcome.COMPLETE
            await send({"type": "http.response.start", "status": reply.status, "headers": out})
            return await _stream(reply, send, on_chunk, on_lost, on_end, keepalive)
        finally:
            await reply.aclose()
    return Outcome.CALLER_LEFT


async def _ask(
    upstream: Requester,
    address: Address,
    method: str,
    target: bytes,
    headers: Sequence[Header],
    body: Body,
    watch: _CallerWatch,
) -> Reply:
    if isinstance(body, bytes):
        watch.start()
        return await upstream.request(address, method, target, headers, body)
    async with aclosing(_then(body, watch.start)) as watched:
        return await upstream.request(address, method, target, headers, watched)


async def _then(body: AsyncIterator[bytes], done: Callable[[], None]) -> AsyncGenerator[bytes]:
    """`body`, and a call at its end: only one at a time may receive from the caller."""
    async for chunk in body:
        yield chunk
    done()


async def _send_whole(
    method: str,
    status: int,
    headers: list[Header],
    body: bytes,
    send: Send,
) -> None:
    if method != "HEAD" and status not in _BODILESS and find(headers, b"content-length") is None:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _stream(
    reply: Reply,
    send: Send,
    on_chunk: OnChunk | None,
    on_lost: OnLost | None,
    on_end: OnLost | None,
    keepalive: float,
) -> Outcome:
    events = _open_to_events(reply)
    patience = keepalive if events else None
    tail = b"\n\n"  # the last bytes that went out; the beginning is as good as a blank line
    try:
        while not reply.at_end:
            chunk = await reply.next_chunk(patience)
            if chunk is None:
                if _at_boundary(tail):
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                continue
            if chunk:
                if on_chunk is not None:
                    await _seen(on_chunk, chunk)
                tail = chunk[-4:] if len(chunk) > 3 else (tail + chunk)[-4:]
            last = await _added_at_end(reply, reply.at_end, on_end)
            more = last is not None or not reply.at_end
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
            if last is not None:
                await _send_last(last, tail, send)
    except SandboxLost:
        last = await on_lost() if events and on_lost is not None else None
        if last is not None:
            await _send_last(last, tail, send)
        return Outcome.UPSTREAM_LOST
    return Outcome.COMPLETE


async def _added_at_end(reply: Reply, at_end: bool, on_end: OnLost | None) -> bytes | None:
    """What `on_end` adds to an event stream if it has come to its end."""
    if on_end is None or not at_end or not _open_to_events(reply):
        return None
    return await on_end()


async def _send_last(last: bytes, tail: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": _behind(tail, last), "more_body": False})


def _behind(tail: bytes, last: bytes) -> bytes:
    """An event of ours as it stands behind the sandbox's, of which the last one may be incomplete."""
    return last if _at_boundary(tail) else b"\n\n" + last


async def _seen(on_chunk: OnChunk, chunk: bytes) -> None:
    pending = on_chunk(chunk)
    if pending is not None:
        await pending


def _is_events(reply: Reply) -> bool:
    kind = find(reply.headers, b"content-type")
    return kind is not None and kind[:17].lower() == b"text/event-stream"


def _open_to_events(reply: Reply) -> bool:
    """True when bytes of ours may stand between the sandbox's: server-sent events of no fixed length, in
    plain."""
    return (
        _is_events(reply)
        and find(reply.headers, b"content-length") is None
        and find(reply.headers, b"content-encoding") in (None, b"identity")
    )


def _at_boundary(tail: bytes) -> bool:
    """True after a blank line. Lines of events end with any of LF, CR LF and CR."""
    if tail.endswith(b"\r\n"):
        before = tail[:-2]
    elif tail.endswith((b"\n", b"\r")):
        before = tail[:-1]
    else:
        return False
    return before.endswith((b"\n", b"\r"))


class _CallerWatch:
    """Cancels its block when the caller leaves, as `asyncio.timeout` does when time is up.

    One task per request that takes its time, none for one that is answered quickly.
    """

    __slots__ = ("_cancelling", "_left", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._cancelling = 0
        self._left = False
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> _CallerWatch:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._cancelling = self._task.cancelling()
        return self

    def start(self) -> None:
        """To be called when the request's body is read: from now on nothing but a disconnect can come."""
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._watch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if isinstance(error, _CallerLeft):
            return True
        if self._left and self._task is not None:
            return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        return False

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._until_disconnect())

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._task is not None:
            self._task.cancel()
