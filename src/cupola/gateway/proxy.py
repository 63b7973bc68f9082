"""Carries one request to a sandbox and its reply back, byte for byte, as ASGI messages.

Streams are never buffered: what the sandbox has written goes on at once, and a slow caller slows the sandbox
down. Beside the bytes this module watches three things: the caller may leave (the sandbox then sees its
connection close, which ends a foreground run), the sandbox may be lost, and an event stream may be silent for
so long that something on the way would cut it.

It knows neither agents nor sessions: which sandbox, which headers and what a loss looks like in the protocol
at hand are its callers' business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.types import Receive, Send

from cupola.drivers.base import Address
from cupola.errors import CupolaError, SandboxLost
from cupola.gateway.headers import Header, find, to_caller
from cupola.gateway.leaving import CallerWatch, Leaving
from cupola.gateway.reply import Reply
from cupola.gateway.upstream import Body

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events: every client skips it."""

KEEP_ALIVE_SECONDS = 15.0
"""Load balancers and clients cut connections that are silent for 30 to 60 s; half of the least is safe."""


@dataclass(frozen=True, slots=True)
class Silence:
    """What happens while an event stream is silent, in seconds; 0 turns either off.

    After `comment` the caller gets a comment, again and again. After `cut` without a byte from the sandbox the stream
    is cut off, as Azure's edge does (docs/wire-notes.md).
    """

    comment: float = KEEP_ALIVE_SECONDS
    cut: float = 0

    def patience(self, silent: float) -> float | None:
        """How long to wait for the next byte after `silent` seconds without one; None for ever."""
        until_cut = max(self.cut - silent, 0.0) if self.cut else None
        if not self.comment:
            return until_cut
        return self.comment if until_cut is None else min(self.comment, until_cut)


_BODILESS = frozenset({204, 304})
_USUAL = Silence()


OnChunk = Callable[[bytes], bytes | Awaitable[bytes | None] | None]
"""Sees every piece of a body before the caller does and says what goes on in its place; None: the piece as it is.
What is awaitable is awaited first. An empty answer holds the piece back."""

OnWhole = Callable[[int, bytes], Awaitable[bytes]]
OnLost = Callable[[], Awaitable[bytes | None]]


class Outcome(StrEnum):
    """How the carrying ended."""

    COMPLETE = "complete"
    CALLER_LEFT = "caller_left"
    UPSTREAM_LOST = "upstream_lost"
    CUT = "cut"


class Requester(Protocol):
    """What this module needs of `upstream.Upstream`."""

    async def request(
        self, address: Address, method: str, target: bytes, headers: Sequence[Header], body: Body
    ) -> Reply: ...


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
    silence: Silence = _USUAL,
    leaving: Leaving | None = None,
) -> Outcome:
    """Sends the request, then the reply to the caller, until one of the three ends it.

    `headers` go to the sandbox as they are; of the reply's, `headers.to_caller` decides, and
    `extra_reply_headers` are added. `on_head` sees status and headers as the sandbox sent them, `on_chunk`
    every piece of the body (unless that is encoded); both before the caller does, and must not raise. With
    `on_whole`, a reply that is no event stream is read to its end, and the caller gets what `on_whole` makes
    of it.

    A sandbox lost before its reply began raises `SandboxLost`, and nothing was sent. Lost later, or when `on_chunk`
    cannot go on, an event stream ends with what `on_lost` returns; without that the reply is left unfinished, and
    the server cuts the caller's connection, so that nobody takes a part for the whole. A body that ends with its
    connection ends as well when the sandbox is lost: an event stream that seems to be whole is followed by what
    `on_end` returns. Callers who wait are noticed together with the others of `leaving`.
    """
    with CallerWatch(leaving or Leaving(), receive) as watch:
        reply = await _ask(upstream, address, method, target, headers, body, watch)
        try:
            if on_head is not None:
                on_head(reply.status, reply.headers)
            out = to_caller(reply.headers)
            out.extend(extra_reply_headers)
            whole = reply.complete
            if not _is_plain(reply):
                on_chunk = None
            if on_chunk is not None and _is_events(reply):
                out = [header for header in out if header[0] != b"content-length"]  # its pieces may change
            if on_whole is not None and not _is_events(reply):
                whole = await on_whole(reply.status, await reply.read())
                out = [header for header in out if header[0] not in (b"content-length", b"content-encoding")]
                on_chunk = None
            if whole is not None:
                on_end = on_end if _open_to_events(reply, on_chunk) else None
                return await _send_whole(method, reply.status, out, whole, send, on_chunk, on_end)
            await send({"type": "http.response.start", "status": reply.status, "headers": out})
            return await _stream(reply, send, on_chunk, on_lost, on_end, silence)
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
    watch: CallerWatch,
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
    on_chunk: OnChunk | None,
    on_end: OnLost | None,
) -> Outcome:
    if on_chunk is not None and body:
        body = await _seen(on_chunk, body)
    missing = await _missing(on_end, body)
    body += missing
    if method != "HEAD" and status not in _BODILESS and find(headers, b"content-length") is None:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return Outcome.UPSTREAM_LOST if missing else Outcome.COMPLETE


async def _stream(
    reply: Reply,
    send: Send,
    on_chunk: OnChunk | None,
    on_lost: OnLost | None,
    on_end: OnLost | None,
    silence: Silence,
) -> Outcome:
    events = _open_to_events(reply, on_chunk)
    patience = usual = silence.patience(0) if events else None
    silent = 0.0
    missing = b""
    ended = False  # not `reply.at_end`, which may become true while the caller takes what came before
    tail = b"\n\n"  # the last bytes that went out; the beginning is as good as a blank line
    try:
        while not ended:
            chunk = await reply.next_chunk(patience)
            if chunk is None:
                silent += patience or 0
                if silence.cut and silent >= silence.cut:
                    return Outcome.CUT
                if _at_boundary(tail):
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                patience = silence.patience(silent)
                continue
            if silent:
                silent, patience = 0.0, usual
            if chunk:
                if on_chunk is not None:
                    chunk = await _seen(on_chunk, chunk)
                tail = chunk[-4:] if len(chunk) > 3 else (tail + chunk)[-4:]
            ended = reply.at_end
            if ended and events:
                missing = await _missing(on_end, tail)
            if chunk or missing or ended:
                await send({"type": "http.response.body", "body": chunk + missing, "more_body": not ended})
    except CupolaError as error:
        if events and (missing := await _missing(on_lost, tail)):
            await send({"type": "http.response.body", "body": missing, "more_body": False})
        elif not isinstance(error, SandboxLost):
            raise
        return Outcome.UPSTREAM_LOST
    return Outcome.UPSTREAM_LOST if missing else Outcome.COMPLETE


async def _missing(tell: OnLost | None, tail: bytes) -> bytes:
    """The event that a stream lacks after `tail`, if any."""
    last = None if tell is None else await tell()
    if last is None:
        return b""
    return last if _at_boundary(tail) else b"\n\n" + last


async def _seen(on_chunk: OnChunk, chunk: bytes) -> bytes:
    made = on_chunk(chunk)
    if made is not None and not isinstance(made, bytes):
        made = await made
    return chunk if made is None else made


def _is_events(reply: Reply) -> bool:
    kind = find(reply.headers, b"content-type")
    return kind is not None and kind[:17].lower() == b"text/event-stream"


def _is_plain(reply: Reply) -> bool:
    """True when the body's bytes are what they mean: not packed."""
    return find(reply.headers, b"content-encoding") in (None, b"identity")


def _open_to_events(reply: Reply, on_chunk: OnChunk | None) -> bool:
    """True when bytes of ours may stand between the sandbox's: server-sent events in plain, of no fixed length."""
    return (
        _is_events(reply)
        and _is_plain(reply)
        and (on_chunk is not None or find(reply.headers, b"content-length") is None)
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
