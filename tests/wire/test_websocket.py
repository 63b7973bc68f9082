"""The `invocations_ws` protocol, from a plain WebSocket client to the official adapter in a sandbox and back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.served import Platform, client_token, forget, free_port, rest_client, tls_context

from .conftest import cupola
from .deployed import Deployments, endpoint

pytestmark = [pytest.mark.wire, pytest.mark.operation("invocations_ws.connect")]

MEGABYTE = 1024 * 1024
PATIENCE = 60.0


def socket_to(platform: Platform, agent: str, *, token: str | None = "", **query: str) -> connect:
    """A connection to open; with a token of its own, or with none at all."""
    parameters = httpx.QueryParams({"api-version": "v1", **query})
    address = platform.endpoint.replace("https://", "wss://") + endpoint(agent, "invocations_ws")
    headers = {} if token is None else {"Authorization": f"Bearer {token or client_token(platform)}"}
    return connect(
        f"{address}?{parameters}",
        additional_headers=headers,
        ssl=tls_context(platform),
        proxy=None,
        ping_interval=None,
        max_size=None,
        open_timeout=PATIENCE,
    )


async def heard(socket: ClientConnection) -> str | bytes:
    async with asyncio.timeout(PATIENCE):
        return await socket.recv()


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """The close frame that the platform sends."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None, "there was no close frame"
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def refusal(socket: connect) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught:
        await socket
    reply = caught.value.response
    assert reply.body is not None
    return reply.status_code, json.loads(reply.body)["error"]


@pytest.mark.parametrize("adapter", ["stable", "prerelease"])
async def test_messages_pass_both_ways(platform: Platform, agents: Deployments, adapter: str) -> None:
    """Text and bytes up to a megabyte; the adapter sees its session, the other parameters and the caller's key."""
    session = f"s-{uuid4().hex[:8]}"
    async with socket_to(platform, agents.invocations(adapter), agent_session_id=session, voice="a b") as socket:
        assert socket.response is not None
        assert socket.response.headers["x-agent-session-id"] == session
        for message in ("héllo", b"\x00\xff", b"x" * MEGABYTE):
            await socket.send(message)
            assert await heard(socket) == message
        await socket.send("who")
        seen = json.loads(await heard(socket))
        assert (seen["query"], seen["session"]) == ({"voice": "a b"}, session)
        assert {"x-agent-user-id", "x-agent-foundry-call-id"} <= set(seen["headers"])
        assert "authorization" not in seen["headers"]


@pytest.mark.parametrize("adapter", ["stable", "prerelease"])
async def test_the_adapters_way_of_closing(platform: Platform, agents: Deployments, adapter: str) -> None:
    """1000 when the handler is done, 1011 when it fails."""
    agent = agents.invocations(adapter)
    async with socket_to(platform, agent) as socket:
        await socket.send("leave")
        assert await closing(socket) == (1000, "")
    async with socket_to(platform, agent) as socket:
        await socket.send("fail")
        assert await closing(socket) == (1011, "Internal server error")


async def test_an_adapter_without_a_handler(platform: Platform, agents: Deployments) -> None:
    """What it answers then (docs/wire-notes.md) reaches the caller as a reply of HTTP, in an envelope."""
    status, error = await refusal(socket_to(platform, agents.invocations("stable", bare=True)))
    assert (status, error["code"]) == (403, "upgrade_refused")
    assert "Without a handler for /invocations_ws" in error["message"]


async def test_a_message_that_is_too_long(platform: Platform, agents: Deployments) -> None:
    """One byte over a megabyte closes with 1009, whoever sends it."""
    async with socket_to(platform, agents.plain()) as socket:
        await socket.send(b"x" * (MEGABYTE + 1))
        assert (await closing(socket))[0] == 1009
    async with socket_to(platform, agents.plain()) as socket:
        await socket.send(f"say {MEGABYTE}")
        assert len(await heard(socket)) == MEGABYTE
        await socket.send(f"say {MEGABYTE + 1}")
        assert (await closing(socket))[0] == 1009


async def test_an_agent_with_codes_of_its_own(platform: Platform, agents: Deployments) -> None:
    """They pass, with their reasons."""
    async with socket_to(platform, agents.plain()) as socket:
        await socket.send("close 4321 as told")
        assert await closing(socket) == (4321, "as told")


async def test_an_agent_that_dies(platform: Platform, agents: Deployments) -> None:
    """1011 with a reason, and the next connection of the session finds a new sandbox."""
    session = f"s-{uuid4().hex[:8]}"
    async with socket_to(platform, agents.plain(), agent_session_id=session) as socket:
        await socket.send("die")
        assert await closing(socket) == (1011, "The agent's sandbox ended, or broke the connection off.")
    async with socket_to(platform, agents.plain(), agent_session_id=session) as socket:
        await socket.send("say 3")
        assert await heard(socket) == "xxx"


async def test_who_does_not_get_in(platform: Platform, agents: Deployments, rest: httpx.Client) -> None:
    """No token, a forged one, an agent that is not there, a container that refuses, an agent that is disabled."""
    agent = agents.plain()
    assert (await refusal(socket_to(platform, agent, token=None)))[0] == 401
    assert (await refusal(socket_to(platform, agent, token="forged")))[0] == 401
    assert (await refusal(socket_to(platform, "nobody")))[0] == 404
    status, error = await refusal(socket_to(platform, agent, refuse="403"))
    assert (status, error["code"]) == (403, "upgrade_refused")
    rest.post(f"/agents/{agent}:disable").raise_for_status()
    try:
        status, error = await refusal(socket_to(platform, agent))
        assert (status, error["code"]) == (403, "agent_disabled")
    finally:
        rest.post(f"/agents/{agent}:enable").raise_for_status()


async def test_an_agent_that_does_not_declare_it(platform: Platform, agents: Deployments) -> None:
    """400 with what it declares."""
    status, error = await refusal(socket_to(platform, agents.activity()))
    assert status == 400
    assert "declares activity" in error["message"]


async def test_the_platform_stops_under_many(tmp_path: Path) -> None:
    """Fifty connections echo at once; `cupola down` tells each 1001 and leaves no process behind."""
    state = tmp_path / "state"
    cupola(state, "up", "--detach", "--port", str(free_port()))
    try:
        platform = Platform(state, json.loads(cupola(state, "env", "--format", "json")))
        with rest_client(platform) as rest:
            agent = Deployments(rest).invocations("stable")
        sockets = await asyncio.gather(
            *(socket_to(platform, agent, agent_session_id=f"s{number % 3}") for number in range(50))
        )

        async def talk(number: int) -> None:
            for turn in range(20):
                await sockets[number].send(f"{number}/{turn}")
                assert await heard(sockets[number]) == f"{number}/{turn}"

        await asyncio.gather(*(talk(number) for number in range(50)))
        assert processes_of(state)
        ends = [asyncio.create_task(closing(socket)) for socket in sockets]
        await asyncio.to_thread(cupola, state, "down")
        assert {code for code, _ in await asyncio.gather(*ends)} == {1001}
        assert processes_of(state) == []
    finally:
        cupola(state, "down")
        forget(state)


def processes_of(state: Path) -> list[int]:
    """The processes whose command line or environment speaks of this installation."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except (psutil.Error, OSError):
            continue
        if any(str(state) in word for word in told):
            found.append(process.pid)
    return found
