"""The one thread that writes, and how it makes many writes cost one commit.

Whatever has queued up while the last commit was on its way to the disk runs in one transaction, each change in a
savepoint of its own, so that a change that fails takes nobody with it. Answers are given only after the commit. While
a commit waits for the disk the event loop goes on, so the busier the server, the larger the groups.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from cupola.errors import SetupError
from cupola.store import sqlite

_GROUP_LIMIT = 256
"""Changes in one commit: bounds how long the first of a group waits for the last."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Order:
    """A change and who waits for it. Without a change it only waits for those before it."""

    change: Callable[[Connection], Any] | None
    future: asyncio.Future[Any] | None
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns `conn` from the start of its thread until `aclose`."""

    def __init__(self, conn: Connection, path: Path) -> None:
        self._conn = conn
        self._raw = sqlite.raw(conn)
        self._path = path
        self._queue: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._submitted = 0
        self._settled = 0
        self._closed = False
        # A daemon, so that a server which never came to `aclose` can still exit.
        self._thread = threading.Thread(target=self._run, name="cupola-store", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether something submitted earlier is not yet committed."""
        return self._settled != self._submitted

    def submit(self, change: Callable[[Connection], Any] | None, future: asyncio.Future[Any] | None) -> None:
        """Called from the event loop's thread only."""
        if self._closed:
            raise SetupError("The store is closed: the platform is stopping.", code="storage_closed")
        self._submitted += 1
        self._queue.put(Order(change, future))

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            orders, stopping = self._take()
            if orders:
                self._commit_group(orders)
                self._settled += len(orders)
                _answer(orders)

    def _take(self) -> tuple[list[Order], bool]:
        """Waits for an order, then takes what else is there; True once told to stop."""
        orders: list[Order] = []
        first = self._queue.get()
        while first is not None:
            orders.append(first)
            if len(orders) == _GROUP_LIMIT:
                return orders, False
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return orders, False
        return orders, True

    def _commit_group(self, orders: list[Order]) -> None:
        """Runs the changes and commits; leaves its result or its error on every order."""
        begun = [order for order in orders if order.change is not None]
        if not begun:
            return
        try:
            self._raw.execute("BEGIN IMMEDIATE")
            for index, order in enumerate(begun):
                self._run_change(order)
                if not self._raw.in_transaction:  # a full disk, for one, undoes the whole transaction
                    _fail_all(begun[:index], order.error)
                    self._raw.execute("BEGIN IMMEDIATE")
            self._raw.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            _fail_all(begun, sqlite.explain(error, self._path))

    def _run_change(self, order: Order) -> None:
        assert order.change is not None
        self._raw.execute("SAVEPOINT change")
        try:
            order.result = order.change(self._conn)
        except Exception as error:
            order.error = _awaitable(sqlite.explain(error, self._path))
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK TO change")
        if self._raw.in_transaction:
            self._raw.execute("RELEASE change")

    def _roll_back(self) -> None:
        try:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
        except Exception:
            _log.exception("store_rollback_failed", database=str(self._path))


def _awaitable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, and would leave its caller waiting."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError("A change raised StopIteration.")
    wrapped.__cause__ = error
    return wrapped


def _fail_all(orders: Iterable[Order], error: BaseException | None) -> None:
    for order in orders:
        order.error = order.error or error
        order.result = None


def _answer(orders: list[Order]) -> None:
    """Wakes the loop once for all. A loop that is gone has nobody left who waits."""
    heard: dict[asyncio.AbstractEventLoop, list[Order]] = {}
    for order in orders:
        if order.future is not None:
            heard.setdefault(order.future.get_loop(), []).append(order)
        elif order.error is not None:
            _log_unheard(order.error)
    for loop, answered in heard.items():
        try:
            loop.call_soon_threadsafe(_resolve, answered)
        except RuntimeError:
            _log.warning("store_answers_unheard", count=len(answered))


def _resolve(orders: list[Order]) -> None:
    for order in orders:
        assert order.future is not None
        if order.future.done():
            if order.error is not None:
                _log_unheard(order.error)
        elif order.error is not None:
            order.future.set_exception(order.error)
        else:
            order.future.set_result(order.result)


def _log_unheard(error: BaseException) -> None:
    _log.error("store_write_failed", exc_info=error)
