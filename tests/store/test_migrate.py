"""Migrations: the way to the tables, and the tables themselves, agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cupola.errors import SetupError
from cupola.store import Store, sqlite
from cupola.store.migrate import HEAD, MIGRATIONS, migrate, revision
from cupola.store.tables import metadata


def test_migrated_tables_are_the_declared_ones(tmp_path: Path) -> None:
    """A database made by the migrations differs in nothing from tables.py."""
    path = tmp_path / "cupola.db"
    conn = sqlite.connect(path, writes=True)
    try:
        assert revision(conn, path) is None
        migrate(conn, path)
        assert revision(conn, path) == HEAD
        migrate(conn, path)
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    finally:
        sqlite.close(conn)


def test_head_is_the_newest_migration() -> None:
    """HEAD, by which a start decides whether to migrate, names the one newest script."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_the_second_start_does_without_alembic(tmp_path: Path) -> None:
    """What is not needed at rest is not in memory."""
    path = tmp_path / "cupola.db"
    await Store.open(path).aclose()
    script = (
        "import asyncio, sys; from pathlib import Path; from cupola.store import Store; "
        "asyncio.run(Store.open(Path(sys.argv[1])).aclose()); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """All of a migration or none of it: here, a table is in its way."""
    path = tmp_path / "cupola.db"
    conn = sqlite.connect(path, writes=True)
    try:
        raw = sqlite.raw(conn)
        raw.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        raw.execute("CREATE TABLE versions (seq INTEGER)")
        with pytest.raises(Exception, match="versions"):
            migrate(conn, path)
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"alembic_version", "versions"}
    finally:
        sqlite.close(conn)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A revision that this Cupola does not know is left alone, with a sentence."""
    path = tmp_path / "cupola.db"
    await Store.open(path).aclose()
    conn = sqlite.connect(path, writes=True)
    sqlite.raw(conn).execute("UPDATE alembic_version SET version_num = '9999'")
    sqlite.close(conn)
    with pytest.raises(SetupError, match=r"newer Cupola \(revision 9999\)"):
        Store.open(path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """Tables that are not ours are left alone, with a sentence."""
    path = tmp_path / "cupola.db"
    conn = sqlite.connect(path, writes=True)
    sqlite.raw(conn).execute("CREATE TABLE bookmarks (url TEXT)")
    sqlite.close(conn)
    with pytest.raises(SetupError, match="was not made by Cupola"):
        Store.open(path)
