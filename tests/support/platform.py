"""A whole platform in-process: real store, real gateway, fake sandboxes; no socket of its own.

`PlatformUnderTest.restart()` is what SIGKILL and a new start are to the parts above the drivers: the store's file and
the fake sandboxes stay, everything in memory is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
from starlette.types import ASGIApp, Message, Scope

from cupola.api.logs import LogLimits
from cupola.app import Finders, Platform, callback_apps
from cupola.clock import SteadyClock
from cupola.drivers.base import LABEL_SANDBOX, Handle, Observation, SandboxSpec
from cupola.drivers.fake import Choice, FakeDriver, FakePlace, FakeSandbox
from cupola.errors import DriverUnavailable
from cupola.gateway.websocket import Limits
from cupola.identity import Caller as Asking
from cupola.identity import Role, SandboxIdentity
from cupola.installation import Installation
from cupola.sandboxes.environment import CallbackEndpoint
from cupola.sandboxes.start import Place
from cupola.settings import Settings
from cupola.store import Store
from cupola.store import agents as rows
from cupola.web.auth import Tokens

PROJECT = "/api/projects/demo"
OPENAI = f"{PROJECT}/agents/a1/endpoint/protocols/openai/v1"
DEFINITION: Mapping[str, Any] = {
    "kind": "hosted",
    "container_configuration": {"image": "agent:1"},
    "protocol_versions": [
        {"protocol": "responses", "version": "2.0.0"},
        {"protocol": "invocations", "version": "2.0.0"},
    ],
    "cpu": "1",
    "memory": "2Gi",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply of an ASGI app. `chunks` are the body's pieces as they were sent."""

    status: int
    headers: Mapping[str, str]
    chunks: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> Mapping[str, Any]:
        error: Mapping[str, Any] = self.json()["error"]
        return error


class Clock:
    """The machine's time, moved by the test: `now` passes, `jump` sets the clock without any time passing.

    Unix seconds.
    """

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.jump = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        """What the machine's clock says."""
        return self.now + self.jump


class Caller:
    """Sends requests to an ASGI app with one token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        left: asyncio.Event | None = None,
        on_chunk: asyncio.Event | None = None,
        chunks: list[bytes] | None = None,
        taken: asyncio.Event | None = None,
    ) -> Answer:
        """`body` goes as JSON, `raw` as it is. The caller leaves when `left` is set; each piece sets `on_chunk`.

        Pieces are put into `chunks` as they come, and none is taken before `taken` is set.
        """
        chunks = [] if chunks is None else chunks
        content = raw if raw is not None else (b"" if body is None else orjson.dumps(body))
        sent = {"content-type": "application/json", **(headers or {})}
        if self._token is not None:
            sent["authorization"] = f"Bearer {self._token}"
        path, _, query = path.partition("?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8443),
        }
        messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        status, reply_headers = 0, {}

        async def receive() -> Message:
            if messages:
                return messages.pop(0)
            await (left or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                reply_headers.update({n.decode(): v.decode() for n, v in message["headers"]})
            elif message.get("body"):
                if taken is not None:
                    await taken.wait()
                chunks.append(message["body"])
                if on_chunk is not None:
                    on_chunk.set()

        await self._app(scope, receive, send)
        return Answer(status, reply_headers, tuple(chunks))


class MortalDriver(FakeDriver):
    """The driver of a platform that may be killed: what a killed one would still tidy up stays as it was.

    While it is `away` nothing can be asked of it; `no_copies` and `no_deletions` are what it cannot do with homes.
    """

    killed = False
    away = False
    no_copies = False
    no_deletions = False

    async def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        self._require()
        async with aclosing(super().start(spec)) as steps:
            async for handle in steps:
                yield handle

    async def poll(self, handle: Handle) -> Observation:
        self._require()
        return await super().poll(handle)

    async def end(self, handle: Handle, grace: float) -> None:
        self._require()
        self._die_if_killed()
        await super().end(handle, grace)

    async def stop(self, handle: Handle, grace: float) -> None:
        self._require()
        self._die_if_killed()
        await super().stop(handle, grace)

    async def delete_home(self, home: str) -> None:
        self._require()
        self._die_if_killed()
        if self.no_deletions:
            raise DriverUnavailable("The engine does not answer.")
        await super().delete_home(home)

    async def copy_home(self, source: str, target: str) -> int:
        self._require()
        if self.no_copies:
            raise DriverUnavailable("The engine does not answer.")
        return await super().copy_home(source, target)

    def _require(self) -> None:
        if self.away:
            raise DriverUnavailable("The engine does not answer.")

    def _die_if_killed(self) -> None:
        if self.killed:
            raise asyncio.CancelledError


class PlatformUnderTest:
    """See the module. `place` holds the fake sandboxes; set `place.behaviour` to choose how agents behave."""

    def __init__(
        self,
        installation: Installation,
        settings: Settings,
        place: FakePlace,
        clock: Clock,
        sockets: Limits | None = None,
        log_limits: LogLimits | None = None,
    ) -> None:
        self.sockets = sockets
        self.log_limits = log_limits
        self.installation = installation
        self.settings = settings
        self.place = place
        self.clock = clock
        self.tokens = Tokens(installation.secret)

    async def open(self) -> Self:
        self.store = self.open_store()
        driver = self.driver = self.make_driver()

        async def find() -> Place:
            return Place(driver, CallbackEndpoint("127.0.0.1", 1, 2), loopback_answers=False)

        self.platform = Platform(
            self.settings,
            self.installation,
            self.store,
            self.tokens,
            Finders(find, find),
            SteadyClock(self.clock.wall, self.clock),
            sockets=self.sockets,
            log_limits=self.log_limits,
        )
        self.call = Caller(self.platform.clients, self.tokens.mint_client()[0])
        self.callbacks, self.token_endpoint = callback_apps(self.store, self.tokens, self.clock)
        await self.platform.begin()
        return self

    def open_store(self) -> Store:
        """What each start opens; `tests/kill` has one that can be killed anywhere."""
        return Store.open(self.installation.layout.database)

    def make_driver(self) -> MortalDriver:
        """The same for the driver."""
        return MortalDriver(self.place, self.installation.id)

    async def aclose(self) -> None:
        await self.platform.aclose()
        await self.store.aclose()

    async def restart(self) -> None:
        """A new process over the same state: nothing was stopped, what was under way is broken off."""
        await self.crash()
        await self.open()

    async def crash(self) -> None:
        """SIGKILL."""
        self.driver.killed = True
        await self.platform.break_off()
        await self.store.aclose()

    def caller(self, principal: str, role: Role = Role.OPERATOR, *, delegate: bool = False) -> Caller:
        """Another client."""
        return Caller(self.platform.clients, self.tokens.mint_client(principal, role, delegate=delegate)[0])

    def sandbox_caller(self, sandbox_id: str | None = None) -> Caller:
        """The callbacks, with the token of a running sandbox (the only one, if not named)."""
        rows = {live.row.id: live.row for live in self.platform.sandboxes.live}
        row = rows[sandbox_id] if sandbox_id else next(iter(rows.values()))
        identity = SandboxIdentity(row.project, row.agent, row.version, row.session_id, row.id)
        return Caller(self.callbacks, self.tokens.mint_sandbox(identity)[0])

    async def create_version(self, agent: str = "a1", definition: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """A version, after its provisioning has ended either way."""
        answer = await self.call("POST", f"{PROJECT}/agents/{agent}/versions", {"definition": definition or DEFINITION})
        assert answer.status == 200, answer.body
        made = answer.json()
        return await self.settled(agent, made["version"])

    async def settled(self, agent: str, version: str) -> Mapping[str, Any]:
        row = await self.version_row(agent, version)
        await self.platform.versions.settled(row, 10)
        shown: Mapping[str, Any] = (await self.call("GET", f"{PROJECT}/agents/{agent}/versions/{version}")).json()
        return shown

    async def version_row(self, agent: str, version: str) -> Any:
        return await self.store.read(lambda conn: rows.get_version(conn, "demo", agent, version))

    async def ask(
        self,
        text: str = "hello",
        *,
        by: Caller | None = None,
        left: asyncio.Event | None = None,
        on_chunk: asyncio.Event | None = None,
        **fields: Any,
    ) -> Answer:
        """`POST responses` to the agent `a1`."""
        asked = {"input": text, **fields}
        return await (by or self.call)("POST", f"{OPENAI}/responses", asked, left=left, on_chunk=on_chunk)

    async def hear(self, text: str = "hello", *, by: Caller | None = None, **fields: Any) -> Mapping[str, Any]:
        """The response to `ask`, which must have worked."""
        answer = await self.ask(text, by=by, **fields)
        assert answer.status == 200, answer.body
        body: Mapping[str, Any] = answer.json()
        return body

    async def conversation(self) -> str:
        """A new conversation's id."""
        return str((await self.call("POST", f"{OPENAI}/conversations", {})).json()["id"])

    @property
    def user(self) -> str:
        """The isolation key of the client behind `call`."""
        caller: Asking = self.tokens.caller(self.tokens.mint_client()[0])
        return caller.user

    @property
    def sandbox(self) -> FakeSandbox:
        """The only sandbox that there is."""
        (found,) = self.place.sandboxes.values()
        return found

    def running(self) -> list[str]:
        """Ids of the sandboxes that exist in the place."""
        return [sandbox.spec.labels[LABEL_SANDBOX] for sandbox in self.place.sandboxes.values()]


@asynccontextmanager
async def open_platform(
    tmp_path: Path,
    behaviour: Choice,
    *,
    sockets: Limits | None = None,
    log_limits: LogLimits | None = None,
    **settings: Any,
) -> AsyncGenerator[PlatformUnderTest]:
    """A platform with its state in `tmp_path`; everything is closed at the end."""
    clock = Clock()
    place = FakePlace(behaviour, clock)
    chosen = Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", stop_grace=1, **settings)
    with Installation.open(chosen.state_dir) as installation:
        under_test = PlatformUnderTest(installation, chosen, place, clock, sockets, log_limits)
        await under_test.open()
        try:
            yield under_test
        finally:
            await under_test.aclose()
            await place.aclose()
