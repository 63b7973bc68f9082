"""The first form of the tables: agents and versions, sessions and sandboxes, responses, conversations and items.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("guid", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("rules", _JSON, nullable=False),
        sa.Column("endpoint", _JSON, nullable=False),
        sa.Column("card", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_agents")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_agents")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "conversation_items",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_conversation_items")),
        sa.UniqueConstraint("project", "conversation", "item", name=op.f("uq_conversation_items")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_conversation_items_project_conversation_seq"),
        "conversation_items",
        ["project", "conversation", "seq"],
        unique=False,
    )
    op.create_table(
        "conversations",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("metadata", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_conversations")),
        sa.UniqueConstraint("project", "id", name=op.f("uq_conversations")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "items",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("body", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("project", "user", "id", name=op.f("pk_items")),
    )
    op.create_table(
        "responses",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("body", _JSON, nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=True),
        sa.Column("input_item_ids", _JSON, nullable=False),
        sa.Column("history_item_ids", _JSON, nullable=False),
        sa.Column("output_item_ids", _JSON, nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_responses")),
        sa.UniqueConstraint("project", "id", name=op.f("uq_responses")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "responses_in_progress",
        "responses",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("final = 0"),
        postgresql_where=sa.text("NOT final"),
    )
    op.create_table(
        "sandboxes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("session_guid", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("handle", _JSON, nullable=True),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sandboxes")),
    )
    op.create_index(
        "one_sandbox_per_session",
        "sandboxes",
        ["project", "agent", "session"],
        unique=True,
        sqlite_where=sa.text("session IS NOT NULL"),
        postgresql_where=sa.text("session IS NOT NULL"),
    )
    op.create_table(
        "session_conversations",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "agent", "conversation", name=op.f("pk_session_conversations")),
    )
    op.create_index(
        op.f("ix_session_conversations_project_agent_session"),
        "session_conversations",
        ["project", "agent", "session"],
        unique=False,
    )
    op.create_table(
        "sessions",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("guid", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_accessed_at", sa.Float(), nullable=False),
        sa.Column("stopped_at", sa.Float(), nullable=True),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.Column("failure", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_sessions")),
        sa.UniqueConstraint("project", "agent", "id", name=op.f("uq_sessions")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_sessions_project_agent_seq"), "sessions", ["project", "agent", "seq"], unique=False)
    op.create_index(op.f("ix_sessions_desired"), "sessions", ["desired"], unique=False)
    op.create_index(op.f("ix_sessions_last_accessed_at"), "sessions", ["last_accessed_at"], unique=False)
    op.create_index(op.f("ix_sessions_observed"), "sessions", ["observed"], unique=False)
    op.create_index(
        op.f("ix_sessions_project_agent_version"), "sessions", ["project", "agent", "version"], unique=False
    )
    op.create_table(
        "versions",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("definition", _JSON, nullable=False),
        sa.Column("code_sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("failure", _JSON, nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("draft", sa.Boolean(), nullable=False),
        sa.Column("warnings", _JSON, nullable=False),
        sa.Column("image_content", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project", "agent"], ["agents.project", "agents.name"], name=op.f("fk_versions_agents"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_versions")),
        sa.UniqueConstraint("project", "agent", "version", name=op.f("uq_versions")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_versions_code_sha256"), "versions", ["code_sha256"], unique=False)
    op.create_index(op.f("ix_versions_status"), "versions", ["status"], unique=False)


def downgrade() -> None:
    for table in (
        "versions",
        "sessions",
        "session_conversations",
        "sandboxes",
        "responses",
        "items",
        "conversations",
        "conversation_items",
        "agents",
    ):
        op.drop_table(table)
