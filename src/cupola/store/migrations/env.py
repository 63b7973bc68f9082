"""Alembic's entry: runs the migrations on the connection that it is handed, within the caller's transaction."""

from __future__ import annotations

from alembic import context

from cupola.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by rebuilding it
)
context.run_migrations()
