"""The schema: the newest one is made at once, an earlier one is brought up to date by the revisions in `migrations`."""

from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select

from service.sql.counts import keep_counts
from service.sql.tables import EVALUATIONS, METADATA, VERSION

REVISION = "0007"
"""The newest one."""

MIGRATIONS = Path(__file__).with_name("migrations")


class SchemaError(RuntimeError):
    """A database is of a version that cannot be used; the message says of which."""


def bring_up_to_date(db: Connection) -> None:
    """Make the tables, or change those of an earlier version.

    Raises:
        SchemaError: another version made them, from which no revision leads here.
    """
    names = inspect(db).get_table_names()
    found = db.execute(select(VERSION.c.version_num)).scalar() if VERSION.name in names else None
    if found != REVISION:
        if EVALUATIONS.name in names:
            _migrate(db, found)
        else:
            METADATA.create_all(db)
            db.execute(insert(VERSION).values(version_num=REVISION))
        keep_counts(db)
    _require_columns(db)


def _migrate(db: Connection, found: str | None) -> None:
    from alembic import command  # noqa: PLC0415  # it takes 0.2 s, and is rarely needed
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(f"is of a later version, {found}; the latest one known here is {REVISION}") from error


def _require_columns(db: Connection) -> None:
    found = inspect(db).get_multi_columns()
    for table in METADATA.sorted_tables:
        there = {each["name"] for each in found.get((None, table.name), [])}
        if missing := sorted(set(table.columns.keys()) - there):
            raise SchemaError(f"is of another version: its table {table.name} lacks {', '.join(missing)}")
