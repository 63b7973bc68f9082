"""SQLite as a place to keep things: how a connection is opened, and what its errors mean to a person.

Transactions are begun and ended by the caller in SQL (`BEGIN IMMEDIATE`, `SAVEPOINT`): the driver's own habit of
beginning them at some statements and not at others would break savepoints.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import orjson
from sqlalchemy import Connection, StaticPool, create_engine
from sqlalchemy.exc import DBAPIError

from cupola.errors import Conflict, CupolaError, SetupError

_BUSY_SECONDS = 5.0
_CHECKED_AT_OPEN = 64 * 1024 * 1024
"""Bytes up to which a database is checked page by page at the start; above, damage shows when it is met."""

_LEAST_SPACE = 64 * 1024
"""Bytes; with less than these an input/output error means a full disk."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # FULL: what `write` has returned is there after a power cut too. NORMAL would survive a SIGKILL as well, and may
    # lose minutes when the power goes. Group commit makes the difference small: see benchmarks/store.py.
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 67108864",
)
_READER_PRAGMAS = ("PRAGMA query_only = ON",)


def raw(conn: Connection) -> sqlite3.Connection:
    """The driver's connection below, for the statements that frame a transaction."""
    return cast(sqlite3.Connection, conn.connection.dbapi_connection)


def connect(path: Path, *, writes: bool) -> Connection:
    """One connection, usable from any one thread at a time, without foreign keys (see `enforce_foreign_keys`)."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": _BUSY_SECONDS},
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )
    conn = engine.connect()
    try:
        for pragma in _WRITER_PRAGMAS if writes else _READER_PRAGMAS:
            raw(conn).execute(pragma)
    except BaseException:
        close(conn)
        raise
    return conn


def enforce_foreign_keys(conn: Connection) -> None:
    """Not while migrating: rebuilding a table would cascade into those that point to it."""
    raw(conn).execute("PRAGMA foreign_keys = ON")


def close(conn: Connection) -> None:
    conn.close()
    conn.engine.dispose()


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()


def prepare(path: Path) -> None:
    """Makes the directory and an empty file that only its owner reads: definitions may hold secrets."""
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except IsADirectoryError as error:
        raise SetupError(f"The database {path} is a directory; move it away or choose another --state-dir.") from error
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _read_only(path)


def check_intact(conn: Connection, path: Path) -> None:
    if path.stat().st_size > _CHECKED_AT_OPEN:
        return
    (verdict,) = raw(conn).execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the database's errors into ours."""
    try:
        yield
    except (sqlite3.Error, DBAPIError) as error:
        raise explain(error, path) from error


def explain(error: BaseException, path: Path) -> BaseException:
    """What `error` means, as one of our errors; the error itself where it means a mistake of ours."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.IntegrityError):
        return Conflict(f"The change goes against what is stored: {cause}.", code="conflict")
    if isinstance(cause, sqlite3.Error):
        return _explain_code(getattr(cause, "sqlite_errorcode", 0), cause, path) or error
    return error


def _explain_code(code: int, cause: sqlite3.Error, path: Path) -> CupolaError | None:
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path)
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _no_space(path)):
        return _full(path)
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _read_only(path)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SetupError(
            f"Another program keeps the database {path} locked; end it and try again.", code="storage_locked"
        )
    if primary == sqlite3.SQLITE_IOERR:
        return SetupError(f"The database {path} cannot be read or written: {cause}. Check the disk.", code="storage_io")
    return None


def explain_os_error(error: OSError, path: Path) -> CupolaError:
    if error.errno in _NO_SPACE:
        return _full(path)
    if isinstance(error, PermissionError) or error.errno in _READ_ONLY:
        return _read_only(path)
    return SetupError(
        f"The database {path} cannot be opened: {error.strerror}. Choose another --state-dir.", code="storage_io"
    )


def _no_space(path: Path) -> bool:
    space = os.statvfs(path.parent)
    return space.f_bavail * space.f_frsize < _LEAST_SPACE


def _damaged(path: Path) -> SetupError:
    return SetupError(
        f"The database {path} is damaged or is no database; restore it from a backup, or move it away "
        "(with the files beside it that end in -wal and -shm) to begin anew.",
        code="storage_damaged",
    )


def _full(path: Path) -> SetupError:
    return SetupError(
        f"No space is left in {path.parent}; make room on that disk, or choose another --state-dir.",
        code="storage_full",
    )


def _read_only(path: Path) -> SetupError:
    return SetupError(
        f"The directory {path.parent}, or the database {path.name} in it, cannot be written; "
        "give yourself the right to write there, or choose another --state-dir.",
        code="storage_read_only",
    )
