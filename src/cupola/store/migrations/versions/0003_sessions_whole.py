"""Lives of sandboxes, how long requests took, copies of homes, what sessions have used, and warm pools.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("sandbox", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("start_type", sa.Text(), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("failure", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_runs")),
        sa.UniqueConstraint("sandbox", name=op.f("uq_runs")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_runs_project_agent_seq"), "runs", ["project", "agent", "seq"], unique=False)
    op.create_index(op.f("ix_runs_project_agent_session"), "runs", ["project", "agent", "session"], unique=False)
    op.create_index(op.f("ix_runs_ended_at"), "runs", ["ended_at"], unique=False)
    op.create_table(
        "timings",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("start_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("preprocessing_ms", sa.Float(), nullable=False),
        sa.Column("infra_setup_ms", sa.Float(), nullable=False),
        sa.Column("readiness_ms", sa.Float(), nullable=False),
        sa.Column("response_ms", sa.Float(), nullable=False),
        sa.Column("response_begin_ms", sa.Float(), nullable=False),
        sa.Column("last_byte_ms", sa.Float(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_timings")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_timings_project_agent_began_at"), "timings", ["project", "agent", "began_at"], unique=False
    )
    op.create_index(
        "timings_of_subjects",
        "timings",
        ["project", "subject"],
        unique=False,
        sqlite_where=sa.text("subject IS NOT NULL"),
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.create_table(
        "snapshots",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("project", "id", name=op.f("uq_snapshots")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_snapshots_project_agent_session"), "snapshots", ["project", "agent", "session"], unique=False
    )
    op.create_index(
        op.f("ix_responses_project_agent_session_seq"),
        "responses",
        ["project", "agent", "session", "seq"],
        unique=False,
    )
    for column in ("used_seconds", "used_cpu_seconds"):
        op.add_column("sessions", sa.Column(column, sa.Float(), nullable=False, server_default="0"))
    op.add_column("versions", sa.Column("warm_pool", sa.Integer(), nullable=True))
    op.add_column("versions", sa.Column("binds_late", sa.Boolean(), nullable=True))
    op.create_index(op.f("ix_versions_warm_pool"), "versions", ["warm_pool"], unique=False)
    op.add_column("sandboxes", sa.Column("used_cpu_seconds", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("sandboxes") as sandboxes:
        sandboxes.drop_column("used_cpu_seconds")
    op.drop_index(op.f("ix_versions_warm_pool"), "versions")
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("binds_late")
        versions.drop_column("warm_pool")
    with op.batch_alter_table("sessions") as sessions:
        sessions.drop_column("used_cpu_seconds")
        sessions.drop_column("used_seconds")
    op.drop_index(op.f("ix_responses_project_agent_session_seq"), "responses")
    for table in ("snapshots", "timings", "runs"):
        op.drop_table(table)
