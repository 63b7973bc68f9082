"""The proxy core: what a caller gets when a sandbox is good, slow, silent, broken or gone."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cupola.errors import SandboxLost
from cupola.gateway.headers import Header
from cupola.gateway.leaving import caller_body
from cupola.gateway.proxy import KEEP_ALIVE, Outcome, Requester, Silence, _at_boundary, forward
from cupola.gateway.reply import Reply
from cupola.gateway.upstream import Body, Upstream
from tests.gateway.scripted import (
    EVENTS,
    LAST_CHUNK,
    Connection,
    Sandbox,
    answering,
    chunk,
    ok,
    until,
)

PATIENT = 60.0
"""A keep-alive interval that no test reaches."""


class Caller:
    """A caller at the other end of ASGI: sends a body, takes messages, may leave, may be slow."""

    def __init__(self, *body: bytes) -> None:
        self.messages: list[Message] = []
        self.leaves = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self._body = list(body)

    async def receive(self) -> Message:
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> list[Header]:
        return list(self.messages[0]["headers"])

    @property
    def parts(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:]]

    @property
    def finished(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1]["more_body"]


async def carry(
    upstream: Requester,
    sandbox: Sandbox,
    caller: Caller,
    *,
    method: str = "POST",
    body: Body = b"{}",
    keepalive: float = PATIENT,
    cut: float = 0,
    last: bytes | None = None,
    heard: list[bytes] | None = None,
    extra: Sequence[Header] = (),
    unfinished: bytes | None = None,
) -> Outcome:

    async def lost() -> bytes | None:
        return last

    async def ended() -> bytes | None:
        return unfinished

    return await forward(
        upstream,
        sandbox.address,
        method=method,
        target=b"/responses",
        headers=[],
        body=body,
        send=caller.send,
        receive=caller.receive,
        extra_reply_headers=extra,
        on_chunk=None if heard is None else heard.append,
        on_lost=None if last is None else lost,
        on_end=ended,
        silence=Silence(keepalive, cut),
    )


async def test_a_small_reply_goes_in_two_messages(upstream: Upstream) -> None:
    """Head and whole body, filtered headers and ours; the observer sees the body."""
    reply = ok(b"hello", b"X-Request-Id: theirs", b"Connection: keep-alive", b"X-Platform-Server: core/2")
    heard: list[bytes] = []
    async with answering(reply) as sandbox:
        caller = Caller()
        outcome = await carry(upstream, sandbox, caller, heard=heard, extra=[(b"x-request-id", b"ours")])
    assert outcome is Outcome.COMPLETE
    assert caller.messages == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-length", b"5"),
                (b"x-platform-server", b"core/2"),
                (b"x-request-id", b"ours"),
            ],
        },
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]
    assert heard == [b"hello"]


async def test_a_whole_chunked_reply_gets_its_length(upstream: Upstream) -> None:
    """When all chunks are there at once, the caller is told how long the body is."""
    async with answering(EVENTS + chunk(b"a") + chunk(b"b") + LAST_CHUNK) as sandbox:
        caller = Caller()
        await carry(upstream, sandbox, caller)
    assert (b"content-length", b"2") in caller.headers
    assert caller.parts == [b"ab"]


@pytest.mark.parametrize(
    ("method", "reply", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", [(b"content-length", b"100")]),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
    ],
)
async def test_replies_without_a_body(upstream: Upstream, method: str, reply: bytes, length: list[Header]) -> None:
    """Nothing is said about the length of a body that is not there, beyond what the sandbox said."""
    async with answering(reply) as sandbox:
        caller = Caller()
        await carry(upstream, sandbox, caller, method=method, body=b"")
    assert caller.headers == length
    assert caller.parts == [b""]


async def test_on_head_sees_what_the_caller_does_not(upstream: Upstream) -> None:
    """The platform can log what is stripped from the reply."""
    seen: list[tuple[int, dict[bytes, bytes]]] = []
    async with answering(ok(b"", b"x-platform-error-detail: why", status=b"500 Oh")) as sandbox:
        caller = Caller()
        await forward(
            upstream,
            sandbox.address,
            method="GET",
            target=b"/",
            headers=[],
            body=b"",
            send=caller.send,
            receive=caller.receive,
            on_head=lambda status, headers: seen.append((status, dict(headers))),
        )
    assert seen == [(500, {b"content-length": b"0", b"x-platform-error-detail": b"why"})]
    assert caller.headers == [(b"content-length", b"0")]


async def test_events_go_on_as_they_are_written(upstream: Upstream) -> None:
    """The head goes before the first event, each event before the next one is written."""
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        for number in range(3):
            await go_on.wait()
            go_on.clear()
            await connection.say(chunk(b"data: %d\n\n" % number))
        await go_on.wait()
        await connection.say(LAST_CHUNK)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller))
        for count in range(1, 5):
            await until(lambda: len(caller.messages) == count)  # noqa: B023 - awaited within the turn
            go_on.set()
        assert await carrying is Outcome.COMPLETE
    assert caller.parts == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b""]
    assert caller.finished


async def test_a_caller_who_leaves_a_stream(upstream: Upstream) -> None:
    """The sandbox sees its connection close, and nothing more is sent."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(b"data: 1\n\n"))
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller))
        await until(lambda: len(caller.messages) == 2)
        caller.leaves.set()
        assert await carrying is Outcome.CALLER_LEFT
        await until(sandbox.connections[0].left.is_set)
        assert not caller.finished


async def test_a_caller_who_leaves_before_the_reply(upstream: Upstream) -> None:
    """A sandbox that is still thinking sees its connection close too."""
    asked = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        asked.set()
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller))
        await asked.wait()
        caller.leaves.set()
        assert await carrying is Outcome.CALLER_LEFT
        await until(sandbox.connections[0].left.is_set)
        assert caller.messages == []


async def test_a_caller_who_leaves_while_his_server_waits_for_him(upstream: Upstream) -> None:
    """A caller who takes nothing and then leaves is noticed as well."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(b"data: 1\n\n"))
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        caller.takes.clear()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller))
        await until(lambda: bool(sandbox.connections))
        caller.leaves.set()
        assert await carrying is Outcome.CALLER_LEFT


async def test_cancelling_is_not_leaving(upstream: Upstream) -> None:
    """When the server is stopped, the cancellation passes, and the sandbox sees its connection close."""
    asked = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        asked.set()
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        carrying = asyncio.create_task(carry(upstream, sandbox, Caller()))
        await asked.wait()
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        await until(sandbox.connections[0].left.is_set)


async def test_a_streamed_request(upstream: Upstream) -> None:
    """A caller's body goes on in the pieces in which it comes."""
    heard: list[bytes] = []

    async def script(connection: Connection) -> None:
        heard.append((await connection.request())[1])
        await connection.say(ok())

    async with Sandbox(script) as sandbox:
        caller = Caller(b"one", b"", b"two")
        outcome = await carry(upstream, sandbox, caller, body=caller_body(caller.receive))
    assert outcome is Outcome.COMPLETE
    assert heard == [b"onetwo"]


async def test_a_caller_who_leaves_halfway_through_his_request(upstream: Upstream) -> None:
    """Half a request is never finished towards the sandbox."""

    async def script(connection: Connection) -> None:
        await connection.until_left()

    class HalfCaller(Caller):
        async def receive(self) -> Message:
            return {**await super().receive(), "more_body": True}

    async with Sandbox(script) as sandbox:
        caller = HalfCaller(b"one")
        caller.leaves.set()
        assert await carry(upstream, sandbox, caller, body=caller_body(caller.receive)) is Outcome.CALLER_LEFT
        await until(sandbox.connections[0].left.is_set)
        assert caller.messages == []


async def test_lost_before_the_reply(upstream: Upstream) -> None:
    """Nothing was sent, so the gateway can still answer with an error of its own."""

    async def script(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        with pytest.raises(SandboxLost):
            await carry(upstream, sandbox, caller)
        assert caller.messages == []


@pytest.mark.parametrize(
    ("written", "last"),
    [(b"data: 1\n\n", b"event: error\n\n"), (b"data: 1\n\ndata: {", b"\n\nevent: error\n\n")],
)
async def test_an_event_stream_that_is_lost(upstream: Upstream, written: bytes, last: bytes) -> None:
    """The gateway's last event follows what came, as an event of its own, and the stream ends well."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(written))

    async with Sandbox(script) as sandbox:
        caller = Caller()
        outcome = await carry(upstream, sandbox, caller, last=b"event: error\n\n")
    assert outcome is Outcome.UPSTREAM_LOST
    assert b"".join(caller.parts) == written + last
    assert caller.finished


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("written", "last"),
    [(b"data: 1\n\n", b"event: error\n\n"), (b"data: 1\n\ndata: {", b"\n\nevent: error\n\n")],
)
async def test_an_event_stream_that_ends_with_its_connection(
    upstream: Upstream, at_once: bool, written: bytes, last: bytes
) -> None:
    """Whether it is whole only the protocol knows: what it says is missing follows as an event of its own."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(head + written)
        if not at_once:
            await go_on.wait()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller, unfinished=b"event: error\n\n"))
        if not at_once:
            await until(lambda: caller.parts == [written])
            go_on.set()
        assert await carrying is Outcome.UPSTREAM_LOST
    assert b"".join(caller.parts) == written + last
    assert caller.finished


async def test_a_body_that_is_lost(upstream: Upstream) -> None:
    """What is no event stream is left unfinished: nobody takes a part for the whole."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(ok(b"x" * 1000)[:-500])

    async with Sandbox(script) as sandbox:
        caller = Caller()
        outcome = await carry(upstream, sandbox, caller, last=b"event: error\n\n")
    assert outcome is Outcome.UPSTREAM_LOST
    assert b"".join(caller.parts) == b"x" * 500
    assert not caller.finished


async def test_an_end_that_comes_while_the_caller_is_slow(upstream: Upstream) -> None:
    """The caller learns the end also when it comes while he has not yet taken what came before."""
    replies: list[Reply] = []
    heard: list[bytes] = []
    go_on, end = asyncio.Event(), asyncio.Event()

    class Remembering:
        async def request(self, *asked: Any) -> Reply:
            replies.append(await upstream.request(*asked))
            return replies[0]

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        await go_on.wait()
        await connection.say(chunk(b"data: 1\n\n"))
        await end.wait()
        await connection.say(LAST_CHUNK)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(Remembering(), sandbox, caller, heard=heard))
        await until(lambda: bool(caller.messages))
        caller.takes.clear()
        go_on.set()
        await until(lambda: bool(heard))
        end.set()
        await until(lambda: replies[0].at_end)
        caller.takes.set()
        assert await carrying is Outcome.COMPLETE
    assert b"".join(caller.parts) == b"data: 1\n\n"
    assert caller.finished


async def test_a_silent_stream_is_kept_alive(upstream: Upstream) -> None:
    """Comments fill the silence after a whole event, again and again, and events go on after them."""
    go_on = asyncio.Event()
    heard: list[bytes] = []

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        await go_on.wait()
        await connection.say(chunk(b"data: 1\n\n") + LAST_CHUNK)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        carrying = asyncio.create_task(carry(upstream, sandbox, caller, keepalive=0.01, heard=heard))
        await until(lambda: caller.parts[:3] == [KEEP_ALIVE] * 3)
        go_on.set()
        assert await carrying is Outcome.COMPLETE
    assert b"".join(caller.parts).replace(KEEP_ALIVE, b"") == b"data: 1\n\n"
    assert heard == [b"data: 1\n\n"]


@pytest.mark.parametrize(
    "begun",
    [
        EVENTS + chunk(b"data: {"),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n"
        + gzip.compress(b"data: 1\n\n"),
    ],
)
async def test_silence_that_must_not_be_filled(upstream: Upstream, begun: bytes) -> None:
    """Nothing is put inside an event, nor into a body that is no plain and open event stream."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(begun)
        await asyncio.sleep(0.1)  # the silence
        connection.reset()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        await carry(upstream, sandbox, caller, keepalive=0.01)
    assert KEEP_ALIVE not in b"".join(caller.parts)


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b":"]), max_size=6).map(b"".join))
def test_boundaries(written: bytes) -> None:
    """A boundary is where the last line is empty, by the rules that clients read events with."""
    lines = written.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert _at_boundary(written[-4:]) is (len(lines) > 2 and lines[-1] == lines[-2] == b"")


async def test_through_a_real_server(upstream: Upstream) -> None:
    """Behind uvicorn too, a caller whose connection closes is seen to leave."""
    outcomes: list[Outcome] = []

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(b"data: 1\n\n"))
        await connection.until_left()

    async with Sandbox(script) as sandbox:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            outcomes.append(
                await forward(
                    upstream,
                    sandbox.address,
                    method=scope["method"],
                    target=scope["raw_path"],
                    headers=[],
                    body=b"",
                    send=send,
                    receive=receive,
                )
            )

        config, state = Config(app), ServerState()
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /responses HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"data: 1\n\n")
        writer.close()
        await writer.wait_closed()
        await until(sandbox.connections[0].left.is_set)
        await until(lambda: outcomes == [Outcome.CALLER_LEFT])
        server.close()
        await server.wait_closed()
        await asyncio.gather(*state.tasks)


async def test_a_whole_reply_can_be_rewritten(upstream: Upstream) -> None:
    """With `on_whole`, the caller gets what it makes of the body, under the new length."""

    async def rewrite(status: int, body: bytes) -> bytes:
        return b"%d %b!" % (status, body)

    async with answering(ok(b"hello", b"content-type: text/plain")) as sandbox:
        caller = Caller()
        await forward(
            upstream,
            sandbox.address,
            method="POST",
            target=b"/",
            headers=[],
            body=b"",
            send=caller.send,
            receive=caller.receive,
            on_whole=rewrite,
        )
    assert caller.headers == [(b"content-type", b"text/plain"), (b"content-length", b"10")]
    assert caller.parts == [b"200 hello!"]


async def test_an_observer_may_take_his_time(upstream: Upstream) -> None:
    """A piece goes on only after what `on_chunk` returned was awaited."""
    order: list[str] = []

    async def keep(part: bytes) -> None:
        await asyncio.sleep(0)
        order.append("kept")

    async with answering(ok(b"hello")) as sandbox:
        caller = Caller()

        async def send(message: Message) -> None:
            order.append(message["type"])

        await forward(
            upstream,
            sandbox.address,
            method="POST",
            target=b"/",
            headers=[],
            body=b"",
            send=send,
            receive=caller.receive,
            on_chunk=keep,
        )
    assert order == ["kept", "http.response.start", "http.response.body"]


def rewriting(piece: bytes) -> bytes | None:
    """Holds back what ends in a dot, and changes what begins with x."""
    if piece.endswith(b"."):
        return b""
    return b"y" * 20 if piece.startswith(b"x") else None


async def rewritten(upstream: Upstream, *said: bytes) -> Caller:
    async def script(connection: Connection) -> None:
        await connection.request()
        for part in said:
            await connection.say(part)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        await forward(
            upstream,
            sandbox.address,
            method="POST",
            target=b"/responses",
            headers=[],
            body=b"{}",
            send=caller.send,
            receive=caller.receive,
            on_chunk=rewriting,
        )
    return caller


async def test_pieces_may_be_changed_and_held_back(upstream: Upstream) -> None:
    """What `on_chunk` returns goes on; nothing at all is no message."""
    asks = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        for part in (b"a\n\n", b"b.", b"x\n\n"):
            await connection.say(chunk(part))
            await asks.wait()
            asks.clear()
        await connection.say(LAST_CHUNK)

    seen: list[bytes] = []

    def look(piece: bytes) -> bytes | None:
        seen.append(piece)
        asks.set()
        return rewriting(piece)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        await forward(
            upstream,
            sandbox.address,
            method="POST",
            target=b"/responses",
            headers=[],
            body=b"{}",
            send=caller.send,
            receive=caller.receive,
            on_chunk=look,
        )
    assert seen == [b"a\n\n", b"b.", b"x\n\n"]
    assert caller.parts == [b"a\n\n", b"y" * 20, b""]


async def test_changed_events_have_no_old_length(upstream: Upstream) -> None:
    """A stream of a fixed length gets its new one, or none."""
    caller = await rewritten(upstream, ok(b"x\n\n", b"content-type: text/event-stream"))
    assert (b"content-length", b"20") in caller.headers
    assert b"".join(caller.parts) == b"y" * 20


async def test_packed_bodies_are_not_looked_into(upstream: Upstream) -> None:
    """Their bytes are not what they mean."""
    caller = await rewritten(upstream, ok(b"x.", b"content-type: text/event-stream", b"content-encoding: gzip"))
    assert b"".join(caller.parts) == b"x."


@pytest.mark.parametrize(("comment", "comments"), [(0.01, True), (0, False), (60, False)])
async def test_a_silent_stream_is_cut(upstream: Upstream, comment: float, comments: bool) -> None:
    """After so long without a byte from the sandbox, with or without comments meanwhile; the reply stays unfinished."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS + chunk(b"data: 1\n\n"))
        await connection.until_left()

    async with Sandbox(script) as sandbox:
        caller = Caller()
        outcome = await carry(upstream, sandbox, caller, keepalive=comment, cut=0.05)
        await until(lambda: sandbox.connections[0].left.is_set())
    assert outcome is Outcome.CUT
    assert not caller.finished
    assert (KEEP_ALIVE in caller.parts) is comments


async def test_a_sign_of_life_puts_off_the_cut(upstream: Upstream) -> None:
    """Also a comment: the patience begins anew with each byte from the sandbox, not with ours."""
    silence = Silence(comment=2, cut=5)
    assert [silence.patience(silent) for silent in (0, 2, 4, 5)] == [2, 2, 1, 0]
    assert Silence(comment=0, cut=0).patience(3) is None
    assert Silence(comment=0, cut=5).patience(3) == 2
    assert Silence(comment=15).patience(600) == 15

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(EVENTS)
        for _ in range(4):
            await connection.say(chunk(b": here\n\n"))
            await until(lambda: len(caller.parts) > 0 and caller.parts[-1] == KEEP_ALIVE)
            caller.messages[1:] = []
        await connection.say(LAST_CHUNK)

    async with Sandbox(script) as sandbox:
        caller = Caller()
        assert await carry(upstream, sandbox, caller, keepalive=0.02, cut=0.3) is Outcome.COMPLETE


async def test_only_streams_are_cut(upstream: Upstream) -> None:
    """A plain reply may take its time."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await until(lambda: len(caller.parts) > 0)
        await connection.say(b"b")

    async with Sandbox(script) as sandbox:
        caller = Caller()
        assert await carry(upstream, sandbox, caller, cut=0.000001) is Outcome.COMPLETE
