"""The store beside the bare `sqlite3` module that does the same: one thread, group commit, the same row.

What the difference pays for: portable questions, migrations, savepoints that keep a failing change to itself, and
domain objects instead of tuples. Cases take turns, so that a busy moment of the machine strikes both.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from benchmarks.report import Goal, print_table
from cupola.sessions import Session
from cupola.store import Store, sessions

ROUNDS = 7
READS = 2000
WRITES = 640
MANY = 32
WRITE_AT_MOST, READ_AT_MOST, HOP_AT_MOST = 3.0, 6.0, 1.0
"""Times the bare thing. No promise to anyone: bounds above the first figures (2.4 and 3.8), so that a mistake in the
store (a statement built anew each time, a commit for each change) stands out."""

_BARE = "bare: sqlite3, own thread, group commit, synchronous=FULL"
_SESSION = Session("demo", "greeter", "s" * 63, "guid", "1", "user", "home", 1.0, 1.0)
_COLUMNS = [field.name for field in fields(Session)]
_INSERT = (
    f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (project, agent, id) DO UPDATE SET last_accessed_at = excluded.last_accessed_at"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE project = ? AND agent = ? AND id = ?"

_row = attrgetter(*_COLUMNS)

Order = tuple[Session, asyncio.Future[None]]


class Side(Protocol):
    """One of the two that are compared."""

    note: str

    async def write(self, session: Session) -> None: ...

    async def read(self) -> object: ...


class Bare:
    """The least that keeps the promise: committed, with FULL, before the caller is told."""

    note = _BARE

    def __init__(self, path: Path) -> None:
        self._writer = self._connect(path)
        self._reader = self._connect(path)
        unique = "UNIQUE (project, agent, id)"
        self._writer.execute(f"CREATE TABLE sessions (seq INTEGER PRIMARY KEY, {', '.join(_COLUMNS)}, {unique})")
        self._queue: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        return conn

    async def write(self, session: Session) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((session, future))
        await future

    async def read(self) -> Session:
        row = self._reader.execute(_SELECT, _SESSION.key).fetchone()
        return Session(*row)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            orders = [first]
            while not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                orders.append(following)
            self._writer.execute("BEGIN IMMEDIATE")
            for session, _ in orders:
                self._writer.execute(_INSERT, _row(session))
            self._writer.execute("COMMIT")
            orders[0][1].get_loop().call_soon_threadsafe(_resolve, orders)


def _resolve(orders: list[Order]) -> None:
    for _, future in orders:
        future.set_result(None)


class Hop:
    """The shortest query there is, by way of another thread."""

    note = "SELECT 1 in a thread"

    def __init__(self) -> None:
        self._conn = sqlite3.connect(":memory:", check_same_thread=False)
        self._pool = ThreadPoolExecutor(1)

    async def read(self) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._conn.execute, "SELECT 1")

    async def write(self, session: Session) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._pool.shutdown()
        self._conn.close()


class Ours:
    note = ""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(path)

    async def write(self, session: Session) -> None:
        await self.store.write(lambda conn: sessions.put_session(conn, session))

    async def read(self) -> Session | None:
        return await self.store.read(lambda conn: sessions.get_session(conn, *_SESSION.key))


def store_goals(directory: Path) -> Iterator[Goal]:
    """Writes of one client and of many, and a look-up."""
    yield from asyncio.run(_compare(directory))


async def _compare(directory: Path) -> list[Goal]:
    bare, ours = Bare(directory / "bare.db"), Ours(directory / "ours.db")
    try:
        await asyncio.gather(bare.write(_SESSION), ours.write(_SESSION))
        return [
            await _case("store: a write, one client, µs", WRITES, _writes, ours, bare, WRITE_AT_MOST),
            await _case(f"store: a write, {MANY} clients, µs", 4 * WRITES, _many_writes, ours, bare, WRITE_AT_MOST),
            await _case("store: a look-up, µs", READS, _reads, ours, bare, READ_AT_MOST),
            await _threaded_case(ours),
        ]
    finally:
        bare.close()
        await ours.store.aclose()


async def _case(
    name: str, times: int, work: Callable[[Side, int], Awaitable[None]], ours: Side, bare: Side, at_most: float
) -> Goal:
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for found, side in zip(figures, (ours, bare), strict=True):
            began = time.perf_counter()
            await work(side, times)
            found.append((time.perf_counter() - began) / times * 1e6)
    us, them = map(statistics.median, figures)
    return Goal(name, us, them, f"≤ {at_most:g} times", us <= at_most * them, bare.note)


async def _threaded_case(ours: Ours) -> Goal:
    """Why reads run on the loop's own thread."""
    hop = Hop()
    try:
        return await _case("store: a look-up beside one through a thread, µs", READS, _reads, ours, hop, HOP_AT_MOST)
    finally:
        hop.close()


async def _reads(side: Side, times: int) -> None:
    for _ in range(times):
        await side.read()


async def _writes(side: Side, times: int) -> None:
    for number in range(times):
        await side.write(replace(_SESSION, last_accessed_at=number))


async def _many_writes(side: Side, times: int) -> None:
    await asyncio.gather(*(_writes(side, times // MANY) for _ in range(MANY)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="cupola-bench-") as scratch:
        print_table(list(store_goals(Path(scratch))))
