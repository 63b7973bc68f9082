"""Brings a database to the newest form of the tables.

Alembic is imported only where there is something to do: a server at rest does not carry it. All steps run in one
transaction, so that a crash leaves the database as it was.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from cupola.errors import SetupError
from cupola.store import sqlite

HEAD = "0003"
"""The newest revision in `migrations/versions/`; a test compares them."""

MIGRATIONS = Path(__file__).with_name("migrations")


def migrate(conn: Connection, path: Path) -> None:
    """Raises SetupError where `path` is another program's database, or that of a newer Cupola."""
    if revision(conn, path) == HEAD:
        return
    with conn.begin():  # commits at its end; Alembic leaves alone a transaction that it did not begin
        sqlite.raw(conn).execute("BEGIN IMMEDIATE")
        _upgrade(conn, path)


def revision(conn: Connection, path: Path) -> str | None:
    """The revision of the tables; None where there are none yet."""
    raw = sqlite.raw(conn)
    tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise SetupError(
            f"The database {path} was not made by Cupola; move it away or choose another --state-dir.",
            code="storage_foreign",
        )
    row = raw.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _upgrade(conn: Connection, path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = revision(conn, path)
    if found is not None and found not in known:
        raise SetupError(
            f"The database {path} was made by a newer Cupola (revision {found}); "
            "upgrade Cupola, or choose another --state-dir.",
            code="storage_newer",
        )
    command.upgrade(config, "head")
