"""The tables of the database: all that is durable about evaluations, and API keys."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()

_LARGE = Integer().with_variant(BigInteger, "postgresql")
"""Of numbers that may pass 2^31: SQLite's integers all may."""

UNCUT = ""

_FAILED = text("error IS NOT NULL")

_UNREVOKED = text("revoked_at IS NULL")

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    Column("id", String, primary_key=True),
    Column("sequence", Integer, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("cancelled_at", Float),
    Column("paused_at", Float),
    Column("priority", String, nullable=False, server_default="normal"),
    Column("max_devices", Integer),
    Column("max_hours", Float),
    Column("device_s", Float, nullable=False, server_default="0"),
    Column("ended_at", Float),
    Column("removed_at", Float),
    Column("label", Text, nullable=False, server_default="{}"),
    Column("words", Text, nullable=False, server_default=""),
)

SHARDS = Table(
    "shards",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
    Column("model", String, nullable=False),
    Column("condition", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("address", String, nullable=False),
    Column("images", Integer, nullable=False),
    Column("passes", _LARGE, nullable=False),
    Column("status", String, nullable=False),
    Column("failures", Integer, nullable=False, default=0),
    Column("kills", Integer, nullable=False, default=0),
    Column("runs", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("seconds", Float),
    Column("finished", Integer),
    Column("share_done", Float, nullable=False, server_default="0"),
    Column("shards", Integer, nullable=False, server_default="1"),
    Column("failed_at", Float),
    Index("shards_by_evaluation", "evaluation_id", "status", "id"),
    Index("shards_by_address", "address", "images"),
    Index("shards_by_finish", "evaluation_id", "finished"),
    Index("shards_with_errors", "evaluation_id", sqlite_where=_FAILED, postgresql_where=_FAILED),
    Index("shards_by_failure", "failed_at", sqlite_where=_FAILED, postgresql_where=_FAILED),
    UniqueConstraint("evaluation_id", "model", "condition", "start"),
    sqlite_autoincrement=True,  # the id of a removed shard, which may still be running, is never given to another
)
"""A row is one shard, or a part that is yet to be cut into shards: its address is `UNCUT`."""

COUNTS = Table(
    "counts",
    METADATA,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("status", String, primary_key=True),
    *(Column(name, _LARGE, nullable=False) for name in ("shards", "images", "passes", "runs")),
    Column("seconds", Float, nullable=False),
)
"""Sums over the shards of each evaluation and status; triggers keep them."""

RESULTS = Table(
    "results",
    METADATA,
    Column("address", String, primary_key=True),
    Column("images", Integer, primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("tally", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("bytes", _LARGE, nullable=False, server_default="0"),
    Index("results_by_bytes", "bytes"),
)
"""Shared by all evaluations whose shards have the address; apart from them, so that counting shards does not read rows."""

OWNERS = Table(
    "owners",
    METADATA,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("owner", String, primary_key=True),
    Index("owners_by_owner", "owner"),
)
"""Who asked for an evaluation: several may have asked the same."""

TRACES = Table(
    "traces",
    METADATA,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("context", Text, nullable=False),
    Column("since", Float, nullable=False),
)
"""The traces that evaluations belong to, until their own spans are made."""

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("id", String, primary_key=True),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    UniqueConstraint("evaluation_id", "owner", "url"),
)
"""Webhooks to be called once their evaluation has ended; a row goes when its receiver has accepted it, or after the last try."""

DISPATCH = Table(
    "dispatch",
    METADATA,
    Column("token", Integer, primary_key=True, autoincrement=False),
    Column("seen_at", Float, nullable=False),
    Column("locked", Boolean, nullable=False),
)
"""One row: who dispatches, when that one was last seen, and whether it holds the lock of the database."""

DEVICES = Table(
    "devices",
    METADATA,
    Column("name", String, primary_key=True),
    Column("shard_id", Integer),
    Column("since", Float),
    Column("deaths", Integer, nullable=False),
    Column("resumes_at", Float),
    Column("problem", Text),
)
"""Of the dispatcher: the shard that each was given last, which may have ended, and how its process fares."""

QUEUE = Table("queue", METADATA, Column("paused_at", Float, primary_key=True))
"""One row while the whole queue is paused, else none."""

KEYS = Table(
    "idempotency_keys",
    METADATA,
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
)

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("sha256", String, primary_key=True),
    Column("session_sha256", String, nullable=False),
    Column("name", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Index("api_keys_by_name", "name", unique=True, sqlite_where=_UNREVOKED, postgresql_where=_UNREVOKED),
)
"""Hashes of API keys, and of what browsers send in their place."""

VERSION = Table(
    "alembic_version",
    METADATA,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""One row: the revision of the schema, as alembic writes it."""
