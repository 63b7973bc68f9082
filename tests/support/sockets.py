"""Both ends of WebSockets: fake agents that speak them, and a platform behind a real listener to connect to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from cupola.drivers.fake import Behaviour, FakeSandbox, Request
from cupola.gateway.websocket import Limits
from cupola.web.listen import Listener, bind
from tests.support.agents import echo
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform

SPEAKING: Mapping[str, Any] = {
    **DEFINITION,
    "protocol_versions": [
        {"protocol": "invocations", "version": "2.0.0"},
        {"protocol": "invocations_ws", "version": "2.0.0"},
    ],
}
PATH = f"{PROJECT}/agents/a1/endpoint/protocols/invocations_ws"

Talk = Callable[[ServerConnection], Awaitable[None]]


async def repeat(socket: ServerConnection) -> None:
    """Says what it is told, in the same kind of message."""
    async for message in socket:
        await socket.send(message)


@dataclass
class Agent:
    """How the containers talk. `ends` collects the close codes and reasons that they were given."""

    talk: Talk
    options: Mapping[str, Any] = field(default_factory=dict)
    ends: list[tuple[int | None, str | None]] = field(default_factory=list)
    open: int = 0
    port: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Behaviour]:
        """The behaviour of fake sandboxes whose sockets lead to this agent."""
        async with serve(self._handle, "127.0.0.1", 0, ping_interval=None, max_size=None, **self.options) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield Behaviour(handler=echo, upgrade=self._pass)

    async def _handle(self, socket: ServerConnection) -> None:
        self.open += 1
        try:
            await self.talk(socket)
        finally:
            with contextlib.suppress(TimeoutError):
                await socket.wait_closed() if socket.close_code else await socket.close()
            self.ends.append((socket.close_code, socket.close_reason))
            self.open -= 1

    async def _pass(
        self, sandbox: FakeSandbox, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Byte for byte to the real server and back, until the sandbox ends or one of them hangs up."""
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{n}: {v}" for n, v in request.headers.items())]
            its_writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            pumps = [
                asyncio.create_task(_pump(source, sink))
                for source, sink in ((reader, its_writer), (its_reader, writer))
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            its_writer.transport.abort()
            with contextlib.suppress(OSError):
                await its_writer.wait_closed()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(64 * 1024):
        sink.write(chunk)
        await sink.drain()


@dataclass(frozen=True, slots=True)
class Listening:
    """A platform behind its listener."""

    platform: PlatformUnderTest
    listener: Listener

    def connect(
        self, query: str = "api-version=v1", *, path: str = PATH, principal: str | None = "local", **options: Any
    ) -> connect:
        """What `websockets.connect` returns: to await, or to enter. Nothing is a principal without a token."""
        headers = dict(options.pop("additional_headers", {}))
        if principal is not None:
            headers["Authorization"] = f"Bearer {self.platform.tokens.mint_client(principal)[0]}"
        protocols = [Subprotocol(name) for name in options.pop("subprotocols", ())]
        return connect(
            f"ws://127.0.0.1:{self.listener.port}{path}?{query}",
            additional_headers=headers,
            subprotocols=protocols or None,
            proxy=None,
            ping_interval=None,
            max_size=None,
            **options,
        )


@asynccontextmanager
async def listening(
    tmp_path: Path, agent: Agent, definition: Mapping[str, Any] = SPEAKING, **limits: Any
) -> AsyncGenerator[Listening]:
    """A platform with an agent `a1` that talks, ready to be connected to."""
    async with (
        agent.serving() as behaviour,
        open_platform(tmp_path, behaviour, sockets=Limits(**limits), max_sandboxes=10) as platform,
    ):
        listener = Listener(platform.platform.clients, bind("127.0.0.1", 0), message_limit=Limits(**limits).message)
        await listener.start()
        try:
            await platform.create_version("a1", definition)
            yield Listening(platform, listener)
        finally:
            await platform.platform.drain()
            await listener.aclose()


def session_of(socket: ClientConnection) -> str:
    """The session that serves a connection."""
    assert socket.response is not None
    return socket.response.headers["x-agent-session-id"]
