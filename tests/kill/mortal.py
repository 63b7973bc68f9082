"""A platform in-process that can die at any point: before a write, between its commit and its answer, between two
steps of a driver, at a look at the clock, in the middle of an answer.

Every such point passes a `Trap`. When it falls, what it was told to happens there: nothing of the platform goes on from
that point (SIGKILL), or something else dies and the platform lives (a sandbox, the engine, the disk, the clock).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from sqlalchemy import Connection
from starlette.types import Message, Receive, Scope, Send

from cupola.drivers.base import LABEL_SESSION, Found, Handle, ImageSource, Observation, Report, SandboxSpec, Source
from cupola.drivers.fake import FakePlace
from cupola.drivers.fake_files import FakeFiles
from cupola.errors import CupolaError, DriverUnavailable
from cupola.installation import Installation
from cupola.settings import Settings
from cupola.store import Store
from tests.kill.receipt import Receipt
from tests.support.platform import Caller, Clock, MortalDriver, PlatformUnderTest

T = TypeVar("T")

_PATIENCE = 10.0
_OF_SANDBOXES = ("FakeSandbox._serve", "BaseSelectorEventLoop._accept_connection2")


class Trap:
    """Counts the points that are passed and acts at one of them. `dead` is a platform that does nothing any more."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.dead = asyncio.Event()
        self.passed = 0
        self.sprung = False
        self.away = 0
        """How many more questions the engine leaves without an answer."""
        self.disk_full = 0
        """How many more writes find no room."""
        self.drops_queued = False
        self._left = 0
        self._act: Callable[[], None] | None = None
        self._loop_thread = threading.get_ident()

    def set(self, after: int, act: Callable[[], None]) -> None:
        self._left, self._act, self.sprung = after, act, False

    def spring(self) -> None:
        """What was to happen happens now, if it has not yet."""
        if self._act is not None:
            act, self._act, self.sprung = self._act, None, True
            act()

    def kill(self) -> None:
        """SIGKILL: what is queued for the disk may get there, or not."""
        self.drops_queued = self.dice.random() < 0.5
        self.dead.set()

    def revive(self) -> None:
        self.dead.clear()
        self._act = None
        self.away = self.disk_full = 0

    def point(self) -> None:
        """Something is about to be done, or was just done."""
        if threading.get_ident() != self._loop_thread:
            return  # the writer's thread: a change is whole or not at all
        if self.dead.is_set():
            raise asyncio.CancelledError
        self.passed += 1
        self._left -= 1
        if self._left == 0:
            self.spring()
        if self.dead.is_set():
            raise asyncio.CancelledError


class _Killed(Exception):
    """The process died before a change was written."""


class MortalStore(Store):
    """A store whose process may die around every question, and whose disk may be full."""

    trap: Trap

    async def read(self, question: Callable[[Connection], T]) -> T:
        self.trap.point()
        return await super().read(question)

    async def write(self, change: Callable[[Connection], T]) -> T:
        self.trap.point()
        try:
            result = await super().write(self._mortal(change))
        except _Killed:
            raise asyncio.CancelledError from None  # as at any other point: nobody goes on
        self.trap.point()
        return result

    def write_later(self, change: Callable[[Connection], object]) -> None:
        self.trap.point()
        super().write_later(self._mortal(change))

    def _mortal(self, change: Callable[[Connection], T]) -> Callable[[Connection], T]:
        def run(conn: Connection) -> T:
            if self.trap.dead.is_set() and self.trap.drops_queued:
                raise _Killed
            if self.trap.disk_full > 0:
                self.trap.disk_full -= 1
                full = sqlite3.OperationalError("database or disk is full")
                full.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise full
            return change(conn)

        return run


class Engine(FakePlace):
    """Where the sandboxes are; it knows when a session has a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.twins: list[str] = []

    def look_for_twins(self, spec: SandboxSpec) -> None:
        session = spec.labels[LABEL_SESSION]
        homes = [one.spec.labels[LABEL_SESSION] for one in self.sandboxes.values() if one.spec.home == spec.home]
        if len(homes) > 1:
            self.twins.append(f"session {session} has {len(homes)} sandboxes")

    def restart(self) -> None:
        """Every sandbox is gone without a word; the homes stay."""
        for sandbox in self.sandboxes.values():
            sandbox.exit(137)
        self.sandboxes.clear()


class KillableDriver(MortalDriver):
    """A driver around every step of which its process may die, of an engine that may be away."""

    def __init__(self, place: Engine, installation: str, trap: Trap) -> None:
        super().__init__(place, installation)
        self._engine = place
        self._trap = trap

    async def prepare(self, source: Source, report: Report) -> Source:
        self._reach()
        return await super().prepare(source, report)

    async def identify(self, image: str) -> str | None:
        self._reach()
        return await super().identify(image)

    async def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        self._reach()
        async with aclosing(super().start(spec)) as steps:
            async for handle in steps:
                self._engine.look_for_twins(spec)
                self._reach()  # it is made, and nobody knows yet
                yield handle
                self._reach()

    async def poll(self, handle: Handle) -> Observation:
        self._reach()
        return await super().poll(handle)

    async def end(self, handle: Handle, grace: float) -> None:
        self._reach()
        await super().end(handle, grace)
        self._reach()  # it has ended, and is still there

    async def stop(self, handle: Handle, grace: float) -> None:
        self._reach()
        await super().stop(handle, grace)
        self._reach()

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        self._reach()
        return await super().output(handle, tail)

    async def list(self) -> Sequence[Found]:
        self._reach()
        return await super().list()

    async def make_home(self, home: str, image: ImageSource | None) -> None:
        self._reach()
        await super().make_home(home, image)

    async def delete_home(self, home: str) -> None:
        self._reach()
        await super().delete_home(home)
        self._reach()

    async def home_files(self, home: str, image: ImageSource | None) -> FakeFiles | None:
        self._reach()
        return await super().home_files(home, image)

    async def copy_home(self, source: str, target: str) -> int:
        self._reach()
        self.place.homes[target] = {}
        self._reach()  # it is there, and nothing is copied yet
        size = await super().copy_home(source, target)
        self._reach()
        return size

    def _reach(self) -> None:
        self._trap.point()
        if self._trap.away > 0:
            self._trap.away -= 1
            raise DriverUnavailable("The engine does not answer.")


class MortalClock(Clock):
    """A look at the clock is a point like any other."""

    def __init__(self, trap: Trap) -> None:
        super().__init__()
        self._trap = trap

    def __call__(self) -> float:
        self._trap.point()
        return self.now


class MortalPlatform(PlatformUnderTest):
    """See the module."""

    def __init__(self, installation: Installation, settings: Settings, engine: Engine, trap: Trap) -> None:
        super().__init__(installation, settings, engine, MortalClock(trap))
        self.engine = engine
        self.trap = trap

    @property
    def dead(self) -> bool:
        return self.trap.dead.is_set()

    @property
    def sprung(self) -> bool:
        return self.trap.sprung

    def open_store(self) -> Store:
        store = MortalStore.open(self.installation.layout.database)
        store.trap = self.trap
        return store

    def make_driver(self) -> MortalDriver:
        return KillableDriver(self.engine, self.installation.id, self.trap)

    async def request(self, method: str, path: str, body: Any = None) -> Receipt:
        """Sends a request; what was heard of its answer is returned, also when the platform dies over it."""
        receipt = Receipt()

        async def witnessed(scope: Scope, receive: Receive, send: Send) -> None:
            async def heard(message: Message) -> None:
                self.trap.point()
                receipt.take(message)
                await send(message)
                self.trap.point()

            await self.platform.clients(scope, receive, heard)

        try:
            await self.under(Caller(witnessed, self.tokens.mint_client()[0])(method, path, body))
        except CupolaError:
            if not receipt.status:
                raise
            receipt.whole = False  # the server cuts a reply that cannot be ended
        return receipt

    async def pass_of(self, work: Coroutine[Any, Any, None]) -> None:
        """One pass of a loop, which goes on after an error that has a name."""
        with contextlib.suppress(CupolaError):
            await self.under(work)

    async def under(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Runs `work` of the platform's own until it is done or the platform is dead."""
        task = asyncio.ensure_future(work)
        dying = asyncio.ensure_future(self.trap.dead.wait())
        await asyncio.wait({task, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if self.trap.dead.is_set():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody is there to hear it
            return None
        return await task

    async def crash(self) -> None:
        """Everything that the platform was doing ends where it is; its files and the sandboxes stay as they are."""
        self.trap.kill()
        mine = asyncio.current_task()
        while rest := [task for task in asyncio.all_tasks() if task is not mine and not _is_outside(task)]:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=_PATIENCE)
        await self.platform.break_off()
        await self.store.aclose()

    async def start_again(self) -> bool:
        """A new process over the same state; False when it was killed while it began."""
        try:
            await self.open()
        except asyncio.CancelledError:
            if not self.trap.dead.is_set():
                raise
            return False
        return True


def _is_outside(task: asyncio.Task[Any]) -> bool:
    """A connection as its sandbox sees it; it ends when the platform's end is closed."""
    return getattr(task.get_coro(), "__qualname__", "") in _OF_SANDBOXES
