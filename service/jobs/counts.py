"""How many shards of an evaluation have each status, kept by triggers: reading it takes the same time for any number of shards."""

from sqlalchemy import Column, Connection, Float, ForeignKey, Integer, MetaData, String, Table, func, insert, select

_SUMS = {"shards": "1", "images": "{0}.images", "passes": "{0}.passes", "runs": "{0}.runs", "seconds": "{0}.seconds"}
"""What is added up, of a row of the table of shards."""


def counts_table(metadata: MetaData) -> Table:
    """Describe the table: a row for each evaluation and status that a shard of it has or had."""
    return Table(
        "counts",
        metadata,
        Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
        Column("status", String, primary_key=True),
        *(Column(name, Integer, nullable=False) for name in _SUMS if name != "seconds"),
        Column("seconds", Float, nullable=False),
    )


def keep_counts(db: Connection, counts: Table, shards: Table) -> None:
    """Make the triggers, and count what was there before them."""
    changes = {
        "insert": _added("new"),
        "delete": _taken_off("old"),
        "update of status, images, passes, runs, seconds": f"{_taken_off('old')} {_added('new')}",
    }
    for change, statements in changes.items():
        name = f"counts_{change.partition(' ')[0]}"
        db.exec_driver_sql(f"CREATE TRIGGER IF NOT EXISTS {name} AFTER {change} ON shards BEGIN {statements} END")
    if db.execute(select(counts).limit(1)).first() is None:
        sums = [func.coalesce(func.sum(shards.c[name]), 0) for name in _SUMS if name != "shards"]
        groups = select(shards.c.evaluation_id, shards.c.status, func.count(), *sums)
        names = ["evaluation_id", "status", *_SUMS]
        db.execute(insert(counts).from_select(names, groups.group_by(shards.c.evaluation_id, shards.c.status)))


def _added(row: str) -> str:
    values = ", ".join(f"coalesce({value.format(row)}, 0)" for value in _SUMS.values())
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
    return (
        f"INSERT INTO counts (evaluation_id, status, {', '.join(_SUMS)}) "  # noqa: S608  # names of our own
        f"VALUES ({row}.evaluation_id, {row}.status, {values}) ON CONFLICT (evaluation_id, status) DO UPDATE SET {sums};"
    )


def _taken_off(row: str) -> str:
    sums = ", ".join(f"{name} = {name} - coalesce({value.format(row)}, 0)" for name, value in _SUMS.items())
    return f"UPDATE counts SET {sums} WHERE evaluation_id = {row}.evaluation_id AND status = {row}.status;"  # noqa: S608
