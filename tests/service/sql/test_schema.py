"""Databases of other versions: earlier ones are brought up to date, later ones are refused."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.jobs.evaluations import ShardStatus, Status
from service.jobs.queries import KeyReusedError
from service.jobs.store import Store
from service.sql.database import StoreError
from service.sql.schema import MIGRATIONS, REVISION
from service.sql.tables import METADATA
from tests.server import a_plan, a_result
from tests.service.jobs.stores import change, connected, drain, on_sqlite, read, url_of

UNVERSIONED = Path(__file__).with_name("unversioned.sql")
"""A database from before schemas had versions: one evaluation is done, and one is running."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "withstand.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(UNVERSIONED.read_text())
    return path


def described(path: Path) -> set[tuple[str, ...]]:
    """Columns, indexes and triggers."""
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {(name, *map(str, each)) for name in names for each in db.execute(f"PRAGMA table_info({name})")}
        others = db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE type <> 'table'")
        return columns | {tuple(" ".join(each.split()) for each in row) for row in others}


def test_the_newest_revision_is_the_one_that_new_databases_have(database: Path | str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    Store.at(database).close()
    with connected(database) as db:
        assert MigrationContext.configure(db).get_current_revision() == REVISION
        assert compare_metadata(MigrationContext.configure(db), METADATA) == []


def test_an_earlier_database_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    Store.at(old).close()
    Store.at(tmp_path / "new.db").close()
    assert described(old) == described(tmp_path / "new.db")


def test_an_earlier_database_keeps_its_evaluations(old: Path) -> None:
    with closing(Store.at(old)) as store:
        done, running = read(store, 0), read(store, 1)
        assert (done.status, done.sequence, done.plan) == (Status.DONE, 1, a_plan(0, images=2))
        assert store.results(done.id) == [a_result(a_plan(0, images=2).shards[0])]
        assert (running.status, running.progress.shards) == (Status.RUNNING, {ShardStatus.RUNNING: 1})
        with pytest.raises(KeyReusedError):
            store.submit(a_plan(2), key="k", body_sha256="other", owner="alice")
        assert store.recover() == 1
        drain(store)
        assert read(store, 1).status is Status.DONE
        assert store.submit(a_plan(2))
        assert read(store, 2).sequence == 3


def test_an_earlier_database_can_be_opened_by_many_at_once(old: Path) -> None:
    together = Barrier(8)

    def open_it() -> None:
        together.wait()
        Store.at(old).close()

    with ThreadPoolExecutor(8) as threads:
        for opened in [threads.submit(open_it) for _ in range(8)]:
            opened.result()
    with closing(Store.at(old)) as store:
        assert read(store).status is Status.DONE


def test_a_database_of_a_later_version_is_refused_and_left_as_it_is(database: Path | str) -> None:
    with closing(Store.at(database)) as store:
        store.submit(a_plan())
    change(database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=f"is of a later version, 9999; the latest one known here is {REVISION}"):
        Store.at(database)
    change(database, f"UPDATE alembic_version SET version_num = '{REVISION}' WHERE version_num = '9999'")
    with closing(Store.at(database)) as store:
        assert read(store).status is Status.PENDING


@on_sqlite
def test_opening_a_database_of_this_version_does_not_import_alembic(database: Path) -> None:
    Store.at(database).close()
    code = "import sys; from service.sql.database import Database; Database(sys.argv[1]).close()"
    loaded = subprocess.check_output(
        [sys.executable, "-c", f"{code}; print('alembic' in sys.modules)", url_of(database)]
    )
    assert loaded == b"False\n"
