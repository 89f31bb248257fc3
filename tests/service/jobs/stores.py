"""Steps on a store that its tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from service.jobs.evaluations import Claim, Evaluation
from service.jobs.store import Store
from tests.server import a_plan, a_result

on_sqlite, on_postgresql = (
    pytest.mark.parametrize("database", [kind], indirect=True) for kind in ("sqlite", "postgresql")
)
"""Of tests about what one kind of database does, or about much that no database does."""


ADDED = ("paused_at", "priority", "max_devices", "max_hours", "device_s", "ended_at", "removed_at", "label", "words")
"""Columns that evaluations have been given since schemas have versions."""


@contextmanager
def connected(database: Path | str) -> Iterator[Connection]:
    """Connect as another program would, for one transaction."""
    engine = create_engine(url_of(database).replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as db:
        yield db
    engine.dispose()


def change(database: Path | str, *statements: str) -> None:
    """Change a database from outside."""
    with connected(database) as db:
        for statement in statements:
            assert db.execute(text(statement)).rowcount != 0, statement


def forget_versions(database: Path | str) -> None:
    """Make a database one from before schemas had versions, as far as that can be told."""
    change(database, *(f"DROP TRIGGER counts_{each}" for each in ("insert", "update", "delete")))
    change(database, *(f"DROP TABLE {each}" for each in ("devices", "queue", "api_keys", "alembic_version")))
    change(database, *(f"ALTER TABLE evaluations DROP COLUMN {each}" for each in ADDED))
    change(database, "ALTER TABLE shards DROP COLUMN share_done", "DROP INDEX results_by_bytes")
    change(database, "ALTER TABLE results DROP COLUMN bytes")
    change(database, "ALTER TABLE shards ADD COLUMN images_done INTEGER NOT NULL DEFAULT 0")
    change(database, "DROP INDEX shards_by_failure", "DROP INDEX owners_by_owner")
    change(database, *(f"ALTER TABLE shards DROP COLUMN {each}" for each in ("shards", "failed_at")))


def url_of(database: Path | str) -> str:
    return database if isinstance(database, str) else f"sqlite:///{database}"


def read(store: Store, number: int = 0) -> Evaluation:
    found = store.evaluation(a_plan(number).id)
    assert found is not None
    return found


def claim(store: Store) -> Claim:
    claimed = store.claim()
    assert claimed is not None
    return claimed


def complete(store: Store, claimed: Claim) -> bool:
    return store.complete(claimed, a_result(claimed.shard))


def drain(store: Store) -> list[Claim]:
    done: list[Claim] = []
    while claimed := store.claim():
        assert complete(store, claimed)
        done.append(claimed)
    return done
