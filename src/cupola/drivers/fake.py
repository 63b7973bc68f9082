"""A driver without processes, for tests of everything above the drivers: it fails exactly as it is told.

A fake sandbox is a small HTTP/1.1 server in this process, on a real socket. What it does is a `Behaviour`,
chosen per source. The `FakePlace` holds the sandboxes and homes and outlives its drivers, as a container
engine outlives the server: a second `FakeDriver` over the same place is a server after a restart.

Left out of its HTTP: pipelining, trailers and 100-continue. Upgrades are handed over, connection and all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cupola.drivers.base import (
    LABEL_INSTALLATION,
    LABEL_SESSION,
    SANDBOX_HOME,
    Address,
    CallbackReach,
    Found,
    Handle,
    ImageSource,
    Life,
    Listener,
    Observation,
    Output,
    Report,
    SandboxSpec,
    Source,
    Step,
)
from cupola.drivers.fake_files import FakeFiles
from cupola.drivers.fake_hooks import AFTER_RESTORE, BEFORE_SNAPSHOT, NAMES_HOOKS, Hooks
from cupola.drivers.fake_server import Listening
from cupola.errors import Conflict, StartFailed
from cupola.runs import OutputLine, Stream

KILLED = 137
"""The exit code of a process that SIGKILL ended."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a sandbox was asked; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What a sandbox answers: bytes with a length, or pieces that are sent one by one as they come."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""


Handler = Callable[["FakeSandbox", Request], Awaitable[Reply]]


Upgrade = Callable[["FakeSandbox", Request, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Takes over a connection that asked for another protocol; what follows the request is unread."""


async def not_found(sandbox: FakeSandbox, request: Request) -> Reply:
    """The handler of an agent that serves nothing but its readiness."""
    return Reply(404)


class Moment(StrEnum):
    """Where a start can hang."""

    PREPARE = "prepare"
    CREATE = "create"
    START = "start"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the sandboxes of one source behave.

    `fails` is raised in the step that its phase names: validate, pull and build by `prepare`, create and
    start by `start`. `hangs` waits for `released` (for ever, without one). `readiness` is the status of
    `GET /readiness`, None to never answer, and `ready` what comes with it. `exit_code` ends the sandbox as soon as it
    has started, `out_of_memory` with the kernel's signal. A `wrong_port` is listened to beside the one that is asked;
    a `local_only` sandbox says it bound 127.0.0.1, and like a container that did so, is not reached. `stubborn` ignores
    SIGTERM. Without an `upgrade`, a request for another protocol is a request like any other. With `hooks` it is an
    official adapter's container that can be given its session after its start.
    """

    fails: StartFailed | None = None
    hangs: Moment | None = None
    released: asyncio.Event | None = None
    readiness: int | None = 200
    ready: Reply = Reply(200, {"content-type": "application/json"}, b"{}")
    exit_code: int | None = None
    out_of_memory: bool = False
    wrong_port: bool = False
    local_only: bool = False
    stubborn: bool = False
    output: tuple[str, ...] = ("listening",)
    handler: Handler = not_found
    upgrade: Upgrade | None = None
    hooks: Hooks | None = None
    on_sigterm: Callable[[FakeSandbox], None] | None = None

    async def reach(self, moment: Moment, phases: Sequence[str]) -> None:
        """Passes a moment of the start: hangs or fails there, if that is the part to play."""
        if self.hangs is moment:
            await (self.released or asyncio.Event()).wait()
        if self.fails is not None and self.fails.phase in phases:
            raise self.fails


class FakeSandbox:
    """One sandbox; tests reach in to let it crash, print, or change its mind about readiness."""

    def __init__(self, place: FakePlace, spec: SandboxSpec, behaviour: Behaviour) -> None:
        self.spec = spec
        self.behaviour = behaviour
        self.readiness = behaviour.readiness
        self.files = place.homes.setdefault(spec.home, {})
        self.output: list[OutputLine] = []
        self.place = place
        self.written = asyncio.Event()
        self.requests: list[Request] = []
        self.abandoned = 0
        self.cpu_seconds: float | None = 0.0
        self.restored: Mapping[str, str] = {}
        self.address: Address | None = None
        self.observation: Observation | None = None
        self._ended = asyncio.Event()
        self._listening: list[Listening] = []

    @property
    def environment(self) -> Mapping[str, str]:
        """What its process sees, with what a driver adds."""
        port = str(self.address.port) if self.address else ""
        bundle = str(self.spec.ca_bundle)
        added = {"HOME": SANDBOX_HOME, "PORT": port, "DEFAULT_AD_PORT": port}
        bundles = {"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle}
        return {**self.spec.environment, **added, **bundles, **self.restored}

    async def start(self) -> Address:
        """Listens, and plays what the behaviour says happens at once."""
        listening = self._listen()
        self.address = Address("127.0.0.1", listening.port)
        if self.behaviour.wrong_port:
            self._listen()
        if self.behaviour.wrong_port or self.behaviour.local_only:
            listening.close()
        if self._ended.is_set():  # killed before it began to listen
            listening.close()
            return self.address
        self.observation = Observation(Life.RUNNING)
        for line in self.behaviour.output:
            self.print(line)
        if self.behaviour.out_of_memory:
            self.run_out_of_memory()
        elif self.behaviour.exit_code is not None:
            self.exit(self.behaviour.exit_code)
        return self.address

    def _listen(self) -> Listening:
        self._listening.append(Listening(self._serve))
        return self._listening[-1]

    def print(self, text: str, stream: Stream = Stream.STDOUT) -> None:
        """Writes a line of output."""
        self.output.append(OutputLine(self.place.clock(), stream, text))
        self.written.set()

    @property
    def ended(self) -> bool:
        """Whether it is over, or has never begun."""
        return self._ended.is_set() or self.observation is None

    def exit(self, code: int) -> None:
        """The process ends: nobody listens, open requests break off."""
        self._end(Observation(Life.EXITED, code))

    def run_out_of_memory(self) -> None:
        """The kernel ends the process at its memory limit."""
        self._end(Observation(Life.EXITED, KILLED, out_of_memory=True))

    def _end(self, observation: Observation) -> None:
        if self.observation is None or self.observation.life is Life.RUNNING:
            self.observation = observation
        for listening in self._listening:
            listening.break_off()
        self._ended.set()
        self.written.set()

    def terminate(self) -> None:
        """SIGTERM."""
        if self.behaviour.stubborn or self._ended.is_set():
            return
        if self.behaviour.on_sigterm is not None:
            self.behaviour.on_sigterm(self)
        self.exit(0)

    async def wait(self, timeout: float) -> None:
        """Until it has ended, or `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()

    async def aclose(self) -> None:
        """SIGKILL, and everything that was open is closed on return."""
        self.exit(KILLED)
        await asyncio.gather(*(listening.ended() for listening in self._listening))

    def listeners(self) -> Sequence[Listener]:
        """What a look into its network would show."""
        if self._ended.is_set() or self.address is None:
            return []
        host = "127.0.0.1" if self.behaviour.local_only else "0.0.0.0"  # noqa: S104 - what is said, not done
        ports = [listening.port for listening in self._listening if listening.is_open]
        return [Listener(host, port) for port in ports or [self.address.port]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            early = b""
            while (request := await read_request(reader, early)) is not None:
                self.requests.append(request)
                if self.behaviour.upgrade is not None and "upgrade" in request.headers:
                    await self.behaviour.upgrade(self, request, reader, writer)
                    break
                early = await self._answer_or_leave(request, reader, writer)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # the peer left, or the process "ended": no goodbye either way
        finally:
            writer.close()

    async def _answer_or_leave(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Answers, but gives up as soon as the peer has gone; what the peer sent meanwhile is returned."""
        answering = asyncio.ensure_future(self._answer(request, writer))
        reading = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.result():
                self.abandoned += not answering.done()
                raise ConnectionResetError("the peer left")
            await answering
            return reading.result() if reading.done() else b""
        finally:
            for task in (answering, reading):
                task.cancel()
            await asyncio.gather(answering, reading, return_exceptions=True)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path.partition("?")[0] == "/readiness":
            if self.readiness is None:
                await asyncio.Event().wait()
            reply = replace(self.behaviour.ready, status=self.readiness or 500)
            if self.behaviour.hooks is not None:
                reply = replace(reply, headers={**reply.headers, "x-platform-server": NAMES_HOOKS})
        elif (hooks := self.behaviour.hooks) is not None and request.path == BEFORE_SNAPSHOT:
            reply = Reply(hooks.before)
        elif hooks is not None and request.path == AFTER_RESTORE:
            status, restored = await hooks.restore(self.environment, request.body)
            self.restored = restored or self.restored
            reply = Reply(status)
        else:
            reply = await self.behaviour.handler(self, request)
        await write_reply(writer, reply)


async def read_request(reader: asyncio.StreamReader, early: bytes = b"") -> Request | None:
    """The next request of a connection, of which `early` was read already; None when the peer is gone."""
    try:
        head = early + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = start.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        pieces.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(pieces)


async def write_reply(writer: asyncio.StreamWriter, reply: Reply) -> None:
    """Writes a reply: pieces go out one by one as chunks, and each has left when the next is asked for."""
    whole = isinstance(reply.body, bytes)
    framing = {"content-length": str(len(reply.body))} if isinstance(reply.body, bytes) else {}
    if not whole:
        framing = {"transfer-encoding": "chunked"}
    lines = [f"HTTP/1.1 {reply.status} Fake"]
    lines += [f"{name}: {value}" for name, value in {**reply.headers, **framing}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if isinstance(reply.body, bytes):
        writer.write(reply.body)
    else:
        async for piece in reply.body:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    await writer.drain()


Choice = Behaviour | Callable[[Source], Behaviour]


class FakePlace:
    """Where fake sandboxes and homes exist, whoever drives them; it counts starts and stops per session.

    A copy of a home waits for `copies_held`, if it is set, with the first file copied; `copying` says that it waits.
    While it is `full`, nothing can be uploaded to a home. `clock` gives the unix seconds that lines of output bear.
    """

    def __init__(self, behaviour: Choice | None = None, clock: Callable[[], float] = time.time) -> None:
        self.behaviour: Choice = behaviour or Behaviour()
        self.clock = clock
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.homes: dict[str, dict[str, bytes]] = {}
        self.full = False
        self.images: dict[str, str] = {}
        self.copying = asyncio.Event()
        self.copies_held: asyncio.Event | None = None
        self.starts: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()

    def behaviour_of(self, source: Source) -> Behaviour:
        return self.behaviour if isinstance(self.behaviour, Behaviour) else self.behaviour(source)

    async def aclose(self) -> None:
        """Ends every sandbox that a test has left running."""
        for sandbox in list(self.sandboxes.values()):
            await sandbox.aclose()
        self.sandboxes.clear()


class FakeDriver:
    """The `Driver` over a `FakePlace`. It keeps nothing itself: `forget` is a server that starts again."""

    name = "fake"

    def __init__(self, place: FakePlace, installation: str = "fake") -> None:
        self.place = place
        self._installation = installation

    def forget(self) -> FakeDriver:
        """The driver of the next server over the same, still running, sandboxes."""
        return FakeDriver(self.place, self._installation)

    async def callback_reach(self) -> CallbackReach:
        return CallbackReach(bind="127.0.0.1", host="127.0.0.1")

    async def prepare(self, source: Source, report: Report) -> Source:
        report("preparing")
        await self.place.behaviour_of(source).reach(Moment.PREPARE, ("validate", "pull", "build"))
        if isinstance(source, ImageSource):
            return replace(source, content=source.content or await self.identify(source.image))
        return source

    async def identify(self, image: str) -> str | None:
        return self.place.images.get(image)

    async def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        behaviour = self.place.behaviour_of(spec.source)
        await behaviour.reach(Moment.CREATE, ("create",))
        sandbox = FakeSandbox(self.place, spec, behaviour)
        self.place.sandboxes[spec.sandbox_id] = sandbox
        self.place.starts[spec.labels.get(LABEL_SESSION, "")] += 1
        yield self._handle(sandbox)
        await behaviour.reach(Moment.START, ("start",))
        await sandbox.start()
        yield self._handle(sandbox)

    def _handle(self, sandbox: FakeSandbox) -> Handle:
        step = Step.CREATED if sandbox.address is None else Step.STARTED
        return Handle(self.name, sandbox.spec.sandbox_id, step, sandbox.address)

    async def poll(self, handle: Handle) -> Observation:
        sandbox = self.place.sandboxes.get(handle.reference)
        if sandbox is None or sandbox.observation is None:
            return Observation(Life.GONE)
        return sandbox.observation

    async def end(self, handle: Handle, grace: float) -> None:
        sandbox = self.place.sandboxes.get(handle.reference)
        if sandbox is None or sandbox.observation is None:
            return
        sandbox.terminate()
        await sandbox.wait(grace)
        await sandbox.aclose()

    async def stop(self, handle: Handle, grace: float) -> None:
        sandbox = self.place.sandboxes.get(handle.reference)
        if sandbox is None:
            return
        await self.end(handle, grace)
        await sandbox.aclose()
        if self.place.sandboxes.pop(handle.reference, None) is not None:
            self.place.stops[sandbox.spec.labels.get(LABEL_SESSION, "")] += 1

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        sandbox = self.place.sandboxes.get(handle.reference)
        return [] if sandbox is None or tail <= 0 else [line.text for line in sandbox.output[-tail:]]

    async def follow(self, handle: Handle, after: str | None) -> AsyncGenerator[Output]:
        sandbox = self.place.sandboxes.get(handle.reference)
        position = int(after or 0)
        while sandbox is not None:
            sandbox.written.clear()
            ended = sandbox.ended
            if lines := sandbox.output[position:]:
                position += len(lines)
                yield Output(lines, str(position))
            elif ended:
                return
            else:
                await sandbox.written.wait()

    async def listeners(self, handle: Handle) -> Sequence[Listener] | None:
        sandbox = self.place.sandboxes.get(handle.reference)
        return None if sandbox is None else sandbox.listeners()

    async def usage(self, handle: Handle) -> float | None:
        sandbox = self.place.sandboxes.get(handle.reference)
        return None if sandbox is None else sandbox.cpu_seconds

    async def list(self) -> Sequence[Found]:
        return [
            Found(self._handle(sandbox), sandbox.spec.labels)
            for sandbox in self.place.sandboxes.values()
            if sandbox.spec.labels.get(LABEL_INSTALLATION) == self._installation
        ]

    async def make_home(self, home: str, image: ImageSource | None) -> None:
        self.place.homes.setdefault(home, {})

    async def home_files(self, home: str, image: ImageSource | None) -> FakeFiles | None:
        files = self.place.homes.get(home)
        return None if files is None else FakeFiles(files, lambda: self.place.full)

    async def delete_home(self, home: str) -> None:
        if any(sandbox.spec.home == home for sandbox in self.place.sandboxes.values()):
            raise Conflict(f"The home {home} is in use by a sandbox: stop it first.")
        self.place.homes.pop(home, None)

    async def copy_home(self, source: str, target: str) -> int:
        self.place.homes.pop(target, None)
        if source not in self.place.homes:
            return 0
        files = dict(self.place.homes[source])
        copy = self.place.homes[target] = dict(list(files.items())[:1])
        if self.place.copies_held is not None:
            self.place.copying.set()
            await self.place.copies_held.wait()
        copy.update(files)
        return sum(map(len, copy.values()))

    async def aclose(self) -> None:
        """Nothing is held; the place goes on."""
