"""How many shards of an evaluation have each status, kept by triggers: reading it takes the same time for any number of shards."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, insert, select

from service.sql.tables import COUNTS, SHARDS

_SUMMED = ("shards", "images", "passes", "runs", "seconds")
"""Columns of shards that are added up."""

_READ = ("evaluation_id", "status", *_SUMMED)

_SIGNS = {"insert": {"new": 1}, "delete": {"old": -1}, "update": {"old": -1, "new": 1}}
"""What each change adds, and what it takes off."""


def keep_counts(db: Connection) -> None:
    """Make the triggers, in place of earlier ones, and count what was there before them."""
    for statement in _of_sqlite() if db.dialect.name == "sqlite" else _of_postgresql():
        db.exec_driver_sql(statement)
    if db.execute(select(COUNTS).limit(1)).first() is None:
        sums = [func.coalesce(func.sum(SHARDS.c[name]), 0) for name in _SUMMED]
        groups = select(SHARDS.c.evaluation_id, SHARDS.c.status, *sums)
        names = ["evaluation_id", "status", *_SUMMED]
        db.execute(insert(COUNTS).from_select(names, groups.group_by(SHARDS.c.evaluation_id, SHARDS.c.status)))


def _of_sqlite() -> Iterator[str]:
    """A trigger is run for each row."""
    for change, signs in _SIGNS.items():
        columns = f" OF {', '.join(_READ)}" if change == "update" else ""
        rows = [f"SELECT {sign} AS sign, {', '.join(f'{row}.{name}' for name in _READ)}" for row, sign in signs.items()]
        yield f"DROP TRIGGER IF EXISTS counts_{change}"
        yield (f"CREATE TRIGGER counts_{change} AFTER {change}{columns} ON shards BEGIN {_added(rows)}; END")


def _of_postgresql() -> Iterator[str]:
    """A trigger is run for each statement: a row that is changed for every shard leaves as many dead versions."""
    for change, signs in _SIGNS.items():
        rows = [f"SELECT {sign} AS sign, * FROM {row}_rows" for row, sign in signs.items()]  # noqa: S608
        tables = " ".join(f"{row} TABLE AS {row}_rows" for row in signs)
        yield (
            f"CREATE OR REPLACE FUNCTION count_{change}() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$ BEGIN {_added(rows)}; RETURN NULL; END $$"
        )
        yield (
            f"CREATE OR REPLACE TRIGGER counts_{change} AFTER {change} ON shards REFERENCING {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION count_{change}()"
        )


def _added(rows: list[str]) -> str:
    sums = ", ".join(f"coalesce(sum(sign * {name}), 0)" for name in _SUMMED)
    added = ", ".join(f"{name} = counts.{name} + excluded.{name}" for name in _SUMMED)
    return (
        f"INSERT INTO counts (evaluation_id, status, {', '.join(_SUMMED)}) "  # noqa: S608  # names of our own
        f"SELECT evaluation_id, status, {sums} FROM ({' UNION ALL '.join(rows)}) AS changed "
        f"GROUP BY evaluation_id, status ON CONFLICT (evaluation_id, status) DO UPDATE SET {added}"
    )
