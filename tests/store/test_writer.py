"""The writer's thread: groups, and what becomes of errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from cupola.errors import SetupError
from cupola.store import agents as agent_rows
from cupola.store import sqlite
from cupola.store.migrate import migrate
from cupola.store.writer import Writer
from tests.store import shapes


class Wire:
    """A writer over a database of its own, with the statements that end its transactions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.conn = sqlite.connect(path, writes=True)
        migrate(self.conn, path)
        sqlite.enforce_foreign_keys(self.conn)
        self.ended: list[str] = []
        sqlite.raw(self.conn).set_trace_callback(self._note)
        self.writer = Writer(self.conn, path)

    def _note(self, statement: str) -> None:
        if statement in ("COMMIT", "ROLLBACK"):
            self.ended.append(statement)

    def order(self, change: object) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.writer.submit(change, future)  # type: ignore[arg-type]  # any function will do here
        return future


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    wire = Wire(tmp_path / "cupola.db")
    yield wire
    await wire.writer.aclose()
    sqlite.close(wire.conn)


def put(name: str) -> object:
    return lambda conn: agent_rows.put_agent(conn, shapes.agent(name))


def names(conn: Connection) -> list[str]:
    return [row[0] for row in conn.exec_driver_sql("SELECT name FROM agents ORDER BY seq")]


async def test_what_queues_up_is_committed_together(wire: Wire) -> None:
    """While one change runs, the next hundred gather and share a commit."""
    gate = threading.Event()
    futures = [wire.order(lambda conn: gate.wait(30)), *(wire.order(put(f"a{n}")) for n in range(100))]
    gate.set()
    await asyncio.gather(*futures)
    assert wire.ended == ["COMMIT"] * len(wire.ended)
    assert 1 <= len(wire.ended) <= 2


async def test_a_group_has_a_limit(wire: Wire) -> None:
    """A thousand changes that wait at once are committed in several groups, in order."""
    gate = threading.Event()
    futures = [wire.order(lambda conn: gate.wait(30)), *(wire.order(put(f"a{n}")) for n in range(1000))]
    gate.set()
    await asyncio.gather(*futures)
    assert 4 <= len(wire.ended) <= 6
    assert await wire.order(names) == [f"a{n}" for n in range(1000)]


async def test_waiting_alone_commits_nothing(wire: Wire) -> None:
    """A read that waits for earlier writes causes no transaction."""
    await wire.order(None)
    assert wire.ended == []
    assert not wire.writer.behind


async def test_a_transaction_that_breaks_takes_its_group_along_and_nobody_later(wire: Wire) -> None:
    """SQLite undoes the whole transaction at some errors: those before it in the group are told, not deceived."""
    gate = threading.Event()

    def broken(conn: Connection) -> None:
        conn.exec_driver_sql("INSERT OR ROLLBACK INTO sandboxes (id) VALUES (NULL)")

    futures = [
        wire.order(lambda conn: gate.wait(30)),
        wire.order(put("before")),
        wire.order(broken),
        wire.order(put("after")),
    ]
    gate.set()
    _, before, failed, after = await asyncio.gather(*futures, return_exceptions=True)
    kept = await wire.order(names)
    assert isinstance(failed, Exception)
    assert after is None
    assert kept == (["before", "after"] if before is None else ["after"])


async def test_a_failing_commit_fails_everybody_in_it(wire: Wire) -> None:
    """Nobody is told of success before the commit, and the writer goes on."""
    sqlite.raw(wire.conn).execute("PRAGMA foreign_keys = ON")

    def orphan(conn: Connection) -> None:
        conn.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        agent_rows.put_version(conn, shapes.version(agent="nobody"))

    gate = threading.Event()
    futures = [wire.order(lambda conn: gate.wait(30)), wire.order(put("a")), wire.order(orphan)]
    gate.set()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(outcomes[2], Exception)
    kept = await wire.order(names)
    assert kept == (["a"] if outcomes[1] is None else [])
    assert await wire.order(put("b")) is None


async def test_an_error_that_nobody_waits_for_is_logged(wire: Wire) -> None:
    """Also that of a caller who was cancelled meanwhile."""

    def fail(conn: Connection) -> None:
        raise ValueError("nobody listens")

    with capture_logs() as logs:
        wire.writer.submit(fail, None)
        wire.order(fail).cancel()
        await wire.order(None)
    assert [entry["event"] for entry in logs] == ["store_write_failed"] * 2


async def test_a_change_that_raises_stop_iteration_answers(wire: Wire) -> None:
    """An exception that futures refuse is wrapped rather than lost."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await wire.order(lambda conn: next(iter(())))


async def test_a_closed_writer_says_so(wire: Wire) -> None:
    """After aclose nothing is taken any more."""
    await wire.writer.aclose()
    with pytest.raises(SetupError, match="closed"):
        wire.writer.submit(None, None)
