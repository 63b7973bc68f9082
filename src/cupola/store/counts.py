"""How many of each thing there are."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from cupola.store import tables


def counts(conn: Connection) -> dict[str, int]:
    """Agents, versions and sessions, over all projects."""
    wanted = {"agents": tables.agents, "versions": tables.versions, "sessions": tables.sessions}
    return {name: conn.execute(select(func.count()).select_from(table)).scalar_one() for name, table in wanted.items()}
