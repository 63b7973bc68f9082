"""The tables, as the newest migration leaves them.

Every list that a client pages through has a `seq`: the order of creation, given once, never again, so that two things
of the same instant keep their order and a page stays where it was while others insert. Names on the wire are unique
within a project, therefore `seq` is the key and the names are a unique constraint beside it.

JSON columns hold what we never search by. What we search by has a column of its own, even where it also stands in the
JSON (`code_sha256`, `final`). Only versions point to their agent by a foreign key: sessions and sandboxes outlive the
agent until their sandboxes are stopped, and a conversation's id may come from a client that never made one.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

_Json = JSON(none_as_null=True)
_Sequence = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is spelt INTEGER."""


def _seq() -> Column[int]:
    return Column("seq", _Sequence, primary_key=True, autoincrement=True)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable)


agents = Table(
    "agents",
    metadata,
    _seq(),
    _text("project"),
    _text("name"),
    _text("guid"),
    Column("created_at", Float, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("rules", _Json, nullable=False),
    Column("endpoint", _Json, nullable=False),
    Column("card", _Json),
    UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    _seq(),
    _text("project"),
    _text("agent"),
    _text("version"),
    Column("definition", _Json, nullable=False),
    _text("code_sha256", nullable=True),
    Column("created_at", Float, nullable=False),
    _text("status"),
    _text("phase", nullable=True),
    Column("failure", _Json),
    _text("description", nullable=True),
    Column("metadata", _Json, nullable=False),
    Column("draft", Boolean, nullable=False),
    Column("warnings", _Json, nullable=False),
    _text("image_content", nullable=True),
    Column("warm_pool", Integer),
    Column("binds_late", Boolean),
    UniqueConstraint("project", "agent", "version"),
    ForeignKeyConstraint(["project", "agent"], ["agents.project", "agents.name"], ondelete="CASCADE"),
    Index(None, "status"),
    Index(None, "code_sha256"),
    Index(None, "warm_pool"),
    sqlite_autoincrement=True,
)

sessions = Table(
    "sessions",
    metadata,
    _seq(),
    _text("project"),
    _text("agent"),
    _text("id"),
    _text("guid"),
    _text("version"),
    _text("caller"),
    _text("home"),
    Column("created_at", Float, nullable=False),
    Column("last_accessed_at", Float, nullable=False),
    Column("stopped_at", Float),
    _text("desired"),
    _text("observed"),
    Column("failure", _Json),
    Column("used_seconds", Float, nullable=False, server_default="0"),
    Column("used_cpu_seconds", Float, nullable=False, server_default="0"),
    UniqueConstraint("project", "agent", "id"),
    Index(None, "project", "agent", "seq"),
    Index(None, "project", "agent", "version"),
    Index(None, "last_accessed_at"),
    Index(None, "desired"),
    Index(None, "observed"),
    sqlite_autoincrement=True,
)

session_conversations = Table(
    "session_conversations",
    metadata,
    Column("project", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("conversation", Text, primary_key=True),
    _text("session"),
    Index(None, "project", "agent", "session"),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", Text, primary_key=True),
    _text("project"),
    _text("agent"),
    _text("version"),
    _text("driver"),
    _text("session_id"),
    _text("session_guid"),
    _text("home"),
    Column("created_at", Float, nullable=False),
    _text("session", nullable=True),
    Column("handle", _Json),
    _text("observed"),
    Column("used_cpu_seconds", Float, nullable=False, server_default="0"),
    Index(
        "one_sandbox_per_session",
        "project",
        "agent",
        "session",
        unique=True,
        sqlite_where=text("session IS NOT NULL"),
        postgresql_where=text("session IS NOT NULL"),
    ),
)

responses = Table(
    "responses",
    metadata,
    _seq(),
    _text("project"),
    _text("id"),
    _text("user"),
    _text("agent"),
    _text("session", nullable=True),
    Column("body", _Json, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    _text("conversation", nullable=True),
    Column("input_item_ids", _Json, nullable=False),
    Column("history_item_ids", _Json, nullable=False),
    Column("output_item_ids", _Json, nullable=False),
    Column("background", Boolean, nullable=False),
    UniqueConstraint("project", "id"),
    Index(None, "project", "agent", "session", "seq"),
    Index(
        "responses_in_progress",
        "seq",
        sqlite_where=text("final = 0"),
        postgresql_where=text("NOT final"),
    ),
    sqlite_autoincrement=True,
)

items = Table(
    "items",
    metadata,
    Column("project", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("body", _Json, nullable=False),
)
"""Items are kept per user: containers choose the ids, and nobody may write over another's."""

conversations = Table(
    "conversations",
    metadata,
    _seq(),
    _text("project"),
    _text("id"),
    _text("user"),
    Column("created_at", Float, nullable=False),
    Column("metadata", _Json, nullable=False),
    UniqueConstraint("project", "id"),
    sqlite_autoincrement=True,
)

conversation_items = Table(
    "conversation_items",
    metadata,
    _seq(),
    _text("project"),
    _text("conversation"),
    _text("user"),
    _text("item"),
    UniqueConstraint("project", "conversation", "item"),
    Index(None, "project", "conversation", "seq"),
    sqlite_autoincrement=True,
)
"""The places of a conversation, oldest first. The item itself is the user's, in `items`."""

invocations = Table(
    "invocations",
    metadata,
    Column("project", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    _text("session"),
    _text("user"),
    Column("created_at", Float, nullable=False),
    Index(None, "created_at"),
)

state_stores = Table(
    "state_stores",
    metadata,
    _seq(),
    _text("project"),
    _text("agent"),
    _text("name"),
    _text("id"),
    Column("user_isolation", Boolean, nullable=False),
    Column("item_ttl_seconds", Integer, nullable=False),
    _text("description", nullable=True),
    Column("tags", _Json, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("project", "agent", "name"),
    sqlite_autoincrement=True,
)

state_items = Table(
    "state_items",
    metadata,
    _seq(),
    Column("store", _Sequence, nullable=False),
    _text("user"),
    _text("key"),
    _text("id"),
    Column("value", _Json, nullable=False),
    Column("tags", _Json, nullable=False),
    _text("etag"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("expires_at", Float),
    UniqueConstraint("store", "user", "key"),
    ForeignKeyConstraint(["store"], ["state_stores.seq"], ondelete="CASCADE"),
    Index(None, "store", "user", "seq"),
    Index(None, "expires_at"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    _seq(),
    _text("sandbox"),
    _text("project"),
    _text("agent"),
    _text("version"),
    _text("driver"),
    _text("session", nullable=True),
    _text("start_type"),
    Column("began_at", Float, nullable=False),
    Column("ready_at", Float),
    Column("ended_at", Float),
    _text("end_reason", nullable=True),
    Column("failure", _Json),
    UniqueConstraint("sandbox"),
    Index(None, "project", "agent", "seq"),
    Index(None, "project", "agent", "session"),
    Index(None, "ended_at"),
    sqlite_autoincrement=True,
)
"""The life of each sandbox that ever began, kept after it is gone: what its output belongs to."""

timings = Table(
    "timings",
    metadata,
    _seq(),
    _text("project"),
    _text("agent"),
    _text("version"),
    _text("session"),
    _text("request_id"),
    _text("protocol"),
    _text("start_type"),
    Column("status", Integer, nullable=False),
    Column("began_at", Float, nullable=False),
    Column("preprocessing_ms", Float, nullable=False),
    Column("infra_setup_ms", Float, nullable=False),
    Column("readiness_ms", Float, nullable=False),
    Column("response_ms", Float, nullable=False),
    Column("response_begin_ms", Float, nullable=False),
    Column("last_byte_ms", Float, nullable=False),
    _text("subject", nullable=True),
    Index(None, "project", "agent", "began_at"),
    Index(
        "timings_of_subjects",
        "project",
        "subject",
        sqlite_where=text("subject IS NOT NULL"),
        postgresql_where=text("subject IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

snapshots = Table(
    "snapshots",
    metadata,
    _seq(),
    _text("project"),
    _text("agent"),
    _text("session"),
    _text("id"),
    _text("version"),
    _text("caller"),
    _text("driver"),
    _text("home"),
    _text("note", nullable=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    _text("state"),
    UniqueConstraint("project", "id"),
    Index(None, "project", "agent", "session"),
    sqlite_autoincrement=True,
)
