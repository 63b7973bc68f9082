"""A platform of fake sandboxes that commands can find: behind its listeners, and announced in its state directory."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.routing import Router

from cupola import routes
from cupola.callbacks.tokens import ClientTokens
from cupola.installation import Running
from cupola.web.listen import Listener, bind
from cupola.web.tls import LOCAL_NAMES, Authority
from tests.support.platform import PlatformUnderTest


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `cupola` for one platform."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    async def begin(self, *arguments: str) -> asyncio.subprocess.Process:
        """A command that goes on."""
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "cupola", *arguments)
        return await asyncio.create_subprocess_exec(
            *command, stdout=pipe, stderr=pipe, env={**os.environ, **self._variables}
        )

    async def in_terminal(self, *arguments: str) -> str:
        """What a terminal shows of a command."""
        ours, theirs = pty.openpty()
        command = (sys.executable, "-m", "cupola", *arguments)
        environment = {**os.environ, **self._variables}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        async with asyncio.timeout(60):
            await process.wait()
        try:
            return os.read(ours, 1 << 16).decode()
        finally:
            os.close(ours)

    async def __call__(self, *arguments: str) -> Done:
        process = await self.begin(*arguments)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def announced(platform: PlatformUnderTest) -> AsyncGenerator[Shell]:
    """The commands' way to the platform, for as long as it is needed."""
    installation = platform.installation
    authority = Authority.open(installation.layout.ca)
    sign_in = Router([*routes.token_routes(ClientTokens(platform.tokens, installation.identity_header))])
    async with AsyncExitStack() as stack:
        clients = Listener(platform.platform.clients, bind("127.0.0.1", 0), authority.issue("clients", LOCAL_NAMES))
        identity = Listener(sign_in, bind("127.0.0.1", 0))
        for listener in (identity, clients):
            stack.push_async_callback(listener.aclose)
            await listener.start()
        stack.push_async_callback(platform.platform.drain)
        installation.announce(
            Running(
                pid=os.getpid(),
                endpoint=f"https://localhost:{clients.port}/api/projects/demo",
                port=clients.port,
                identity_port=identity.port,
                driver="fake",
                driver_reason="a test",
                started_at=datetime.now(UTC),
            )
        )
        yield Shell({"CUPOLA_STATE_DIR": str(installation.layout.state_dir), "TERM": "dumb", "TZ": "UTC"})
