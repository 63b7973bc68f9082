"""The store as the rest of the platform sees it: short reads, committed writes, writes that nobody waits for.

Reads run on the event loop's own thread: a look-up takes 20 to 40 µs there and 120 µs by way of another thread
(benchmarks/store.py), and every question is answered from an index. They see every write that this process has
submitted before. Today's database is SQLite, one file per installation and one process that writes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection

from cupola.errors import SetupError
from cupola.store import sqlite
from cupola.store.migrate import migrate
from cupola.store.writer import Writer

T = TypeVar("T")


class Store:
    """Belongs to one event loop. `read` and `write` take a function of a connection: the questions of this package.

    A question must not keep the connection, and must not wait for anything.
    """

    def __init__(self, writer: Writer, reader: Connection, path: Path, closing: ExitStack) -> None:
        self._writer = writer
        self._reader = reader
        self._raw_reader = sqlite.raw(reader)
        self._path = path
        self._closing = closing
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the database file, making or migrating it as needed. Raises SetupError with a sentence."""
        with ExitStack() as closing, sqlite.explained(path):
            sqlite.prepare(path)
            conn = sqlite.connect(path, writes=True)
            closing.callback(sqlite.close, conn)
            sqlite.check_intact(conn, path)
            migrate(conn, path)
            sqlite.enforce_foreign_keys(conn)
            reader = sqlite.connect(path, writes=False)
            closing.callback(sqlite.close, reader)
            return cls(Writer(conn, path), reader, path, closing.pop_all())

    async def read(self, question: Callable[[Connection], T]) -> T:
        """Answers from one snapshot that holds every write submitted before by this process."""
        if self._closed:
            raise SetupError("The store is closed: the platform is stopping.", code="storage_closed")
        if self._writer.behind:
            await self._order(None)
        with sqlite.explained(self._path):
            self._raw_reader.execute("BEGIN")
            try:
                return question(self._reader)
            finally:
                self._raw_reader.execute("ROLLBACK")

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Runs the change; it is committed when this returns. A caller who is cancelled does not undo it."""
        return await self._order(change)

    def write_later(self, change: Callable[[Connection], object]) -> None:
        """Queues the change behind those before it. What goes wrong is logged."""
        self._writer.submit(change, None)

    async def aclose(self) -> None:
        """Commits what is queued, then closes the file. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self._writer.aclose()
        self._closing.close()

    def _order(self, change: Callable[[Connection], T] | None) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(change, future)
        return future
