"""The `invocations_ws` protocol, over a real listener, with fake sandboxes that speak WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from cupola.drivers.fake import FakeSandbox
from cupola.gateway.websocket import NO_CLOSE, NO_CODE, _of_caller
from cupola.web.listen import MESSAGE_LIMIT
from tests.support.platform import DEFINITION, PROJECT
from tests.support.sockets import PATH, SPEAKING, Agent, Listening, listening, repeat, session_of
from tests.support.waiting import wait_until

PATIENCE = 10.0


async def refusal(net: Listening, *arguments: Any, **options: Any) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    """Status, headers and error of a connection that must not come about."""
    with pytest.raises(InvalidStatus) as caught:
        await net.connect(*arguments, **options)
    reply = caught.value.response
    assert reply.body is not None
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(reply.body)["error"]
    assert error["message"]
    assert error["additionalInfo"]["request_id"] == reply.headers["x-request-id"]
    return reply.status_code, dict(reply.headers.raw_items()), error


async def closing(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason with which the platform closes, after whatever it still sends."""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.protocol.close_rcvd is not None, "there was no close frame"
    return socket.close_code, socket.close_reason


def sandbox_of(net: Listening, session: str) -> FakeSandbox:
    live = net.platform.platform.sandboxes.live_of(("demo", "a1", session))
    assert live is not None
    return net.platform.place.sandboxes[live.row.id]


async def test_messages_pass_both_ways(tmp_path: Path) -> None:
    """Text stays text and bytes stay bytes, one by one, and the caller learns his session."""
    async with listening(tmp_path, Agent(repeat)) as net, net.connect() as socket:
        for message in ("héllo", "", b"\x00\xff", b""):
            await socket.send(message)
            assert await socket.recv() == message
        assert session_of(socket)
        assert socket.response is not None
        assert socket.response.headers["x-request-id"]


async def test_the_agent_may_speak_first(tmp_path: Path) -> None:
    """A message is there before anything else is said: nothing is held back."""

    async def greet(socket: ServerConnection) -> None:
        await socket.send("welcome")
        await socket.wait_closed()

    async with listening(tmp_path, Agent(greet)) as net, net.connect() as socket:
        assert await socket.recv() == "welcome"


async def test_what_the_container_is_told(tmp_path: Path) -> None:
    """The other parameters, the caller's permitted headers and the platform's own; no token."""
    seen: list[Request] = []

    async def look(socket: ServerConnection) -> None:
        assert socket.request is not None
        seen.append(socket.request)

    async with listening(tmp_path, Agent(look)) as net:
        query = "voice=a%20b&api-version=v1&agent_session_id=s1&voice=c"
        sent = {"x-client-app": "app", "x-agent-user-id": "forged", "cookie": "c=1", "traceparent": "t"}
        async with net.connect(query, additional_headers=sent, user_agent_header="tester") as socket:
            assert session_of(socket) == "s1"
            await closing(socket)
    (request,) = seen
    assert urlsplit(request.path).path == "/invocations_ws"
    assert parse_qs(urlsplit(request.path).query) == {"voice": ["a b", "c"]}
    headers = request.headers
    assert (headers["x-client-app"], headers["traceparent"], headers["user-agent"]) == ("app", "t", "tester")
    assert headers.get_all("x-agent-user-id") == [net.platform.user]
    assert headers["x-agent-foundry-call-id"].startswith("call_")
    assert not {"authorization", "cookie", "sec-websocket-extensions", "sec-websocket-protocol"} & {
        name.lower() for name in headers
    }


async def test_subprotocols_are_agreed_with_the_container(tmp_path: Path) -> None:
    """The container chooses among those that the caller offers."""
    async with listening(tmp_path, Agent(repeat, {"subprotocols": ["beta"]})) as net:
        async with net.connect(subprotocols=["alpha", "beta"]) as socket:
            assert socket.subprotocol == "beta"
        assert (await refusal(net, subprotocols=["alpha"]))[0] == 400
    async with listening(tmp_path, Agent(repeat)) as net, net.connect(subprotocols=["alpha"]) as socket:
        assert socket.subprotocol is None


# Limits


async def test_a_message_of_a_megabyte_passes(tmp_path: Path) -> None:
    """The limit itself is allowed, in both directions, also in fragments."""
    full = b"x" * MESSAGE_LIMIT
    async with listening(tmp_path, Agent(repeat)) as net, net.connect() as socket:
        await socket.send(full)
        assert await socket.recv() == full
        await socket.send([full[: MESSAGE_LIMIT // 2], full[MESSAGE_LIMIT // 2 :]])
        assert await socket.recv() == full


@pytest.mark.parametrize("fragments", [1, 2])
async def test_a_longer_message_of_the_caller(tmp_path: Path, fragments: int) -> None:
    """One byte more closes with 1009, also in fragments; the container sees none of it."""
    agent = Agent(repeat)
    async with listening(tmp_path, agent) as net, net.connect() as socket:
        size = (MESSAGE_LIMIT + fragments) // fragments
        with_fragments = [b"x" * size] * fragments
        await socket.send(with_fragments if fragments > 1 else with_fragments[0])
        assert (await closing(socket))[0] == 1009
        await wait_until(lambda: agent.open == 0)
        assert agent.ends[0][0] == 1009


async def test_a_longer_message_of_the_agent(tmp_path: Path) -> None:
    """The same limit, the same code, and a reason that says whose message it was."""

    async def babble(socket: ServerConnection) -> None:
        await socket.send(b"x" * (MESSAGE_LIMIT + 1))
        await socket.wait_closed()

    agent = Agent(babble)
    async with listening(tmp_path, agent) as net, net.connect() as socket:
        code, reason = await closing(socket)
        assert (code, reason) == (1009, f"The agent sent a message of more than {MESSAGE_LIMIT} bytes.")
        await wait_until(lambda: agent.open == 0)
        assert agent.ends[0][0] == 1009


async def test_a_connection_has_its_time(tmp_path: Path) -> None:
    """After it both ends are told 1001, though both are busy."""

    async def chatter(socket: ServerConnection) -> None:
        while True:
            await socket.send("x" * 65536)

    agent = Agent(chatter)
    async with listening(tmp_path, agent, lifetime=0.2) as net, net.connect() as socket:
        code, reason = await closing(socket)
        assert code == 1001
        assert reason is not None
        assert reason.endswith("open another one.")
        await wait_until(lambda: agent.open == 0)
        assert agent.ends[0][0] == 1001


async def test_an_end_that_does_not_listen_is_left(tmp_path: Path) -> None:
    """A caller and a container that read nothing cannot hold a connection open beyond its time."""

    released = asyncio.Event()

    async def deaf(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await released.wait()
        socket.transport.resume_reading()

    agent = Agent(deaf)
    async with listening(tmp_path, agent, lifetime=0.2, closing=0.2) as net:
        socket = await net.connect("agent_session_id=s1")
        live = net.platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        assert live.open_requests == 1

        async def shout() -> None:
            while True:
                await socket.send(b"x" * MESSAGE_LIMIT)

        shouting = asyncio.create_task(shout())
        await wait_until(lambda: live.open_requests == 0, PATIENCE)
        socket.transport.abort()
        released.set()
        await asyncio.gather(shouting, return_exceptions=True)


async def test_a_slow_reader_slows_the_writer_down(tmp_path: Path) -> None:
    """Of what the caller does not read, a few buffers' worth leaves the container, not all of it."""
    sent = 0

    async def pour(socket: ServerConnection) -> None:
        nonlocal sent
        for _ in range(200):
            await socket.send(b"x" * MESSAGE_LIMIT)
            sent += 1

    async with listening(tmp_path, Agent(pour)) as net, net.connect(max_queue=1) as socket:
        loop = asyncio.get_running_loop()
        seen, since = 0, loop.time()

        def settled() -> bool:
            nonlocal seen, since
            if sent != seen:
                seen, since = sent, loop.time()
            return sent > 0 and loop.time() - since > 0.3

        await wait_until(settled, PATIENCE)
        assert sent < 50
        assert len([message async for message in socket]) == 200


# Closing


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1000, "done"), (1003, "what"), (3000, "mine"), (4999, "é")])
async def test_close_codes_of_the_caller_reach_the_container(tmp_path: Path, code: int, reason: str) -> None:
    """With their reasons."""
    agent = Agent(repeat)
    async with listening(tmp_path, agent) as net:
        socket = await net.connect()
        await socket.close(code, reason)
        await wait_until(lambda: bool(agent.ends))
        assert agent.ends == [(code, reason)]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "Internal server error"), (1012, ""), (4000, "é")])
async def test_close_codes_of_the_container_reach_the_caller(tmp_path: Path, code: int, reason: str) -> None:
    """With their reasons, after everything that was said before."""

    async def leave(socket: ServerConnection) -> None:
        await socket.send("last word")
        await socket.close(code, reason)

    async with listening(tmp_path, Agent(leave)) as net, net.connect() as socket:
        assert await socket.recv() == "last word"
        assert await closing(socket) == (code, reason)


async def test_a_caller_without_a_code(tmp_path: Path) -> None:
    """An empty close frame, as browsers send it, is a normal end."""
    agent = Agent(repeat)
    async with listening(tmp_path, agent) as net:
        socket = await net.connect()
        socket.protocol.send_close()
        socket.send_data()
        await wait_until(lambda: bool(agent.ends))
        assert agent.ends[0][0] == 1000
        await socket.wait_closed()


async def test_a_caller_who_vanishes(tmp_path: Path) -> None:
    """The container is told that he went away."""
    agent = Agent(repeat)
    async with listening(tmp_path, agent) as net:
        socket = await net.connect()
        socket.transport.abort()
        await wait_until(lambda: bool(agent.ends))
        assert agent.ends[0][0] == 1001


@pytest.mark.parametrize(
    ("code", "reason", "told"), [(NO_CODE, "", 1000), (NO_CODE, None, 1001), (NO_CLOSE, None, 1001), (1015, "", 1001)]
)
def test_codes_that_may_not_be_sent(code: int, reason: str | None, told: int) -> None:
    """They stand for something else, which is said in a code that may."""
    message = {"type": "websocket.disconnect", "code": code, **({} if reason is None else {"reason": reason})}
    assert _of_caller(message).code == told


async def test_a_container_that_breaks_off(tmp_path: Path) -> None:
    """No close frame came from it: the caller is told 1011 and why."""

    async def vanish(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with listening(tmp_path, Agent(vanish)) as net, net.connect() as socket:
        assert await closing(socket) == (1011, "The agent's sandbox ended, or broke the connection off.")


async def test_a_sandbox_that_dies(tmp_path: Path) -> None:
    """The same, and the session's next connection gets a new sandbox."""
    async with listening(tmp_path, Agent(repeat)) as net:
        async with net.connect("agent_session_id=s1") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
            sandbox_of(net, "s1").exit(1)
            assert (await closing(socket))[0] == 1011
        async with net.connect("agent_session_id=s1") as socket:
            await socket.send("y")
            assert await socket.recv() == "y"
        assert net.platform.place.starts["s1"] == 2


async def test_a_session_that_is_stopped(tmp_path: Path) -> None:
    """Whoever stops it, who talks to it is told 1001."""
    async with listening(tmp_path, Agent(repeat)) as net, net.connect("agent_session_id=s1") as socket:
        stopped = await net.platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/s1:stop")
        assert stopped.status in (200, 204)
        assert await closing(socket) == (1001, "The session's sandbox was stopped.")


async def test_a_driver_that_is_away(tmp_path: Path) -> None:
    """The caller is told of the loss all the same."""

    async def vanish(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with listening(tmp_path, Agent(vanish)) as net, net.connect("agent_session_id=s1") as socket:
        net.platform.driver.away = True
        assert (await closing(socket))[0] == 1011
        live = net.platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        await wait_until(lambda: live.open_requests == 0)
        net.platform.driver.away = False


async def test_a_container_that_breaks_the_protocol(tmp_path: Path) -> None:
    """Bytes that are no frame end in 1011."""

    async def gibberish(socket: ServerConnection) -> None:
        socket.transport.write(b"\xff\xff\xff\xff")
        await socket.wait_closed()

    async with listening(tmp_path, Agent(gibberish)) as net, net.connect() as socket:
        assert await closing(socket) == (1011, "The agent's container broke the WebSocket protocol.")


# Refusing


async def test_without_a_token(tmp_path: Path) -> None:
    """401, before anything starts."""
    async with listening(tmp_path, Agent(repeat)) as net:
        status, headers, error = await refusal(net, principal=None)
        assert (status, error["code"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")


async def test_an_agent_that_does_not_declare_it(tmp_path: Path) -> None:
    """400 with what it declares, and no session begins."""
    async with listening(tmp_path, Agent(repeat), DEFINITION) as net:
        status, _, error = await refusal(net, "agent_session_id=s1")
        assert status == 400
        assert "does not speak the invocations_ws protocol" in error["message"]
        assert "responses, invocations" in error["message"]
        assert net.platform.place.starts["s1"] == 0


async def test_a_disabled_agent(tmp_path: Path) -> None:
    """403."""
    async with listening(tmp_path, Agent(repeat)) as net:
        await net.platform.call("POST", f"{PROJECT}/agents/a1:disable")
        status, _, error = await refusal(net)
        assert (status, error["code"]) == (403, "agent_disabled")


async def test_somebody_elses_session(tmp_path: Path) -> None:
    """403; the other's connection goes on."""
    async with listening(tmp_path, Agent(repeat)) as net, net.connect("agent_session_id=s1") as socket:
        status, _, error = await refusal(net, "agent_session_id=s1", principal="other")
        assert (status, error["code"]) == (403, "session_not_accessible")
        await socket.send("x")
        assert await socket.recv() == "x"


@pytest.mark.parametrize(("path", "status"), [(f"{PROJECT}/agents/a1/sockets", 501), ("/elsewhere", 404)])
async def test_no_such_address(tmp_path: Path, path: str, status: int) -> None:
    """As for requests."""
    async with listening(tmp_path, Agent(repeat)) as net:
        assert (await refusal(net, path=path))[0] == status


async def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    """404."""
    async with listening(tmp_path, Agent(repeat)) as net:
        assert (await refusal(net, path=PATH.replace("/a1/", "/a2/")))[0] == 404


@pytest.mark.operation("invocations_ws.explain")
async def test_plain_requests_are_told_what_to_do(tmp_path: Path) -> None:
    """GET without an upgrade is a 400 that names wss."""
    async with listening(tmp_path, Agent(repeat)) as net:
        answer = await net.platform.call("GET", PATH)
        assert answer.status == 400
        assert "wss://" in answer.error["message"]


def answering(status: int, body: bytes = b"", content_type: str = "text/plain") -> Agent:
    """An agent that answers every upgrade with this."""

    def answer(socket: ServerConnection, request: Request) -> Response:
        reply = socket.respond(HTTPStatus(status), "")
        reply.body = body
        reply.headers["x-platform-error-detail"] = "secret"
        reply.headers["retry-after"] = "7"
        del reply.headers["content-type"], reply.headers["content-length"]
        reply.headers["content-type"] = content_type
        reply.headers["content-length"] = str(len(body))
        return reply

    return Agent(repeat, {"process_request": answer})


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(404, "not_found", "no handler"), (403, "upgrade_refused", "Without a handler"), (500, None, "500")],
)
async def test_a_container_that_refuses(tmp_path: Path, status: int, code: str | None, word: str) -> None:
    """Its status, in our envelope where it has none; nobody counts it as open."""
    async with listening(tmp_path, answering(status, b"Not Found")) as net:
        found, headers, error = await refusal(net, "agent_session_id=s1")
        assert (found, error["code"]) == (status, code or "upgrade_refused")
        assert word in error["message"]
        assert headers["x-agent-session-id"] == "s1"
        assert "x-platform-error-detail" not in headers
        assert headers["retry-after"] == "7"
        live = net.platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        assert live.open_requests == 0


async def test_a_container_that_refuses_in_an_envelope(tmp_path: Path) -> None:
    """Its own words reach the caller."""
    body = json.dumps({"error": {"code": "mine", "message": "not today"}}).encode()
    async with listening(tmp_path, answering(409, body, "application/json")) as net:
        with pytest.raises(InvalidStatus) as caught:
            await net.connect()
        assert caught.value.response.status_code == 409
        assert caught.value.response.body == body


async def test_a_container_that_answers_as_if_nothing_was_asked(tmp_path: Path) -> None:
    """200 or a redirection is no WebSocket: 502, and the gateway goes nowhere else."""
    for status in (200, 307):
        async with listening(tmp_path / str(status), answering(status)) as net:
            found, _, error = await refusal(net)
            assert (found, error["code"]) == (502, "sandbox_lost")
            assert str(status) in error["message"]


async def test_a_container_that_does_not_answer(tmp_path: Path) -> None:
    """502 after the time that it has."""

    released = asyncio.Event()

    async def never(socket: ServerConnection, request: Request) -> None:
        await released.wait()

    async with listening(tmp_path, Agent(repeat, {"process_request": never}), opening=0.1) as net:
        found, _, error = await refusal(net)
        assert (found, error["code"]) == (502, "sandbox_lost")
        assert "0.1 s" in error["message"]
        released.set()


async def test_a_sandbox_that_died_unseen_is_replaced(tmp_path: Path) -> None:
    """Nothing was sent to it, so the connection begins anew in another one."""
    async with listening(tmp_path, Agent(repeat)) as net:
        await net.platform.call("POST", PATH.replace("_ws", "") + "?agent_session_id=s1", {})
        sandbox_of(net, "s1").exit(1)
        async with net.connect("agent_session_id=s1") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
        assert net.platform.place.starts["s1"] == 2


# Activity


async def test_an_open_connection_is_activity(tmp_path: Path) -> None:
    """A silent one keeps its sandbox from being reaped, until it is closed."""
    async with listening(tmp_path, Agent(repeat)) as net:
        platform = net.platform
        async with net.connect("agent_session_id=s1") as socket:
            platform.clock.now += 100_000
            await platform.platform.reaper.once()
            await socket.send("x")
            assert await socket.recv() == "x"
            assert platform.place.stops["s1"] == 0
        live = platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        await wait_until(lambda: live.open_requests == 0)
        platform.clock.now += 100_000
        await platform.platform.reaper.once()
        assert platform.place.stops["s1"] == 1


async def test_a_sleeping_session_is_resumed(tmp_path: Path) -> None:
    """By connecting to it."""
    async with listening(tmp_path, Agent(repeat)) as net:
        platform = net.platform
        async with net.connect("agent_session_id=s1"):
            pass
        live = platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        await platform.platform.sandboxes.stops.stop(live, "idle")
        async with net.connect("agent_session_id=s1") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
        assert platform.place.starts["s1"] == 2


def slow_to_accept(released: asyncio.Event) -> Agent:
    async def wait(socket: ServerConnection, request: Request) -> None:
        await released.wait()

    return Agent(repeat, {"process_request": wait})


async def test_a_caller_who_leaves_before_he_is_in(tmp_path: Path) -> None:
    """The container accepts and hears at once that he went away; nobody counts him."""
    released = asyncio.Event()
    agent = slow_to_accept(released)
    async with listening(tmp_path, agent) as net:
        connecting = asyncio.ensure_future(net.connect("agent_session_id=s1").__aenter__())
        await wait_until(lambda: any(live.open_requests for live in net.platform.platform.sandboxes.live), PATIENCE)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        released.set()
        await wait_until(lambda: bool(agent.ends))
        assert agent.ends[0][0] == 1001
        live = net.platform.platform.sandboxes.live_of(("demo", "a1", "s1"))
        assert live is not None
        await wait_until(lambda: live.open_requests == 0)


async def test_a_caller_who_gets_in_while_the_platform_stops(tmp_path: Path) -> None:
    """The container accepted too late: both are told 1001."""
    released = asyncio.Event()
    agent = slow_to_accept(released)
    async with listening(tmp_path, agent) as net:
        connecting = asyncio.ensure_future(net.connect("agent_session_id=s1").__aenter__())
        await wait_until(lambda: any(live.open_requests for live in net.platform.platform.sandboxes.live), PATIENCE)
        await net.platform.platform.drain()
        released.set()
        assert await closing(await connecting) == (1001, "The platform is stopping.")
        await wait_until(lambda: bool(agent.ends))
        assert agent.ends[0][0] == 1001


async def test_many_at_once_and_the_platform_stops(tmp_path: Path) -> None:
    """Fifty callers in five sessions hear their own words; all are told 1001, and nothing is left behind."""
    agent = Agent(repeat)
    async with listening(tmp_path, agent) as net:
        sockets = await asyncio.gather(*(net.connect(f"agent_session_id=s{n % 5}") for n in range(50)))

        async def talk(number: int) -> None:
            for turn in range(20):
                word = f"{number}/{turn}" * (turn + 1)
                await sockets[number].send(word if turn % 2 else word.encode())
                assert await sockets[number].recv() == (word if turn % 2 else word.encode())

        await asyncio.gather(*(talk(number) for number in range(50)))
        assert agent.open == 50
        await net.platform.platform.drain()
        assert {await closing(socket) for socket in sockets} == {(1001, "The platform is stopping.")}
        await wait_until(lambda: agent.open == 0)
        assert {code for code, _ in agent.ends} == {1001}
        status, _, error = await refusal(net)
        assert (status, error["code"]) == (503, "stopping")
        assert {live.open_requests for live in net.platform.platform.sandboxes.live} == {0}
    assert net.platform.place.sandboxes == {}


async def test_a_version_that_says_nothing_else(tmp_path: Path) -> None:
    """An agent may speak `invocations_ws` alone."""
    only = {**SPEAKING, "protocol_versions": [{"protocol": "invocations_ws", "version": "2.0.0"}]}
    async with listening(tmp_path, Agent(repeat), only) as net, net.connect() as socket:
        await socket.send("x")
        assert await socket.recv() == "x"
