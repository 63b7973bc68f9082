"""Which session serves an invocation, and the state stores that agents keep with the platform.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "invocations",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project", "agent", "id", name=op.f("pk_invocations")),
    )
    op.create_index(op.f("ix_invocations_created_at"), "invocations", ["created_at"], unique=False)
    op.create_table(
        "state_stores",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_isolation", sa.Boolean(), nullable=False),
        sa.Column("item_ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", _JSON, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_state_stores")),
        sa.UniqueConstraint("project", "agent", "name", name=op.f("uq_state_stores")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "state_items",
        sa.Column("seq", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("store", _SEQUENCE, nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("value", _JSON, nullable=False),
        sa.Column("tags", _JSON, nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["store"], ["state_stores.seq"], name=op.f("fk_state_items_state_stores"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_state_items")),
        sa.UniqueConstraint("store", "user", "key", name=op.f("uq_state_items")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_state_items_store_user_seq"), "state_items", ["store", "user", "seq"], unique=False)
    op.create_index(op.f("ix_state_items_expires_at"), "state_items", ["expires_at"], unique=False)


def downgrade() -> None:
    for table in ("state_items", "state_stores", "invocations"):
        op.drop_table(table)
