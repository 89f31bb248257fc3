"""A database file is found again, shared by threads and processes, and refused if it is of another version."""

import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import inspect

from service.jobs.evaluations import Status
from service.jobs.queries import KeyReusedError
from service.jobs.store import Store
from service.sql.database import Database, StoreError
from service.sql.sqlite import BUSY_S, CONNECTIONS
from tests.server import a_plan
from tests.service.jobs.stores import change, claim, complete, connected, drain, on_sqlite, read, url_of


def test_a_database_is_found_again_as_it_was_left(database: Path | str) -> None:
    first = Store.at(database)
    first.submit(a_plan(), key="k", body_sha256="one")
    complete(first, claim(first))
    claim(first)
    before = read(first)
    first.close()
    again = Store.at(database)
    assert read(again) == before
    with pytest.raises(KeyReusedError):
        again.submit(a_plan(1), key="k", body_sha256="two")
    assert again.recover() == 1
    assert [each.shard.start for each in drain(again)] == [100, 200]
    again.close()


def test_no_thread_waits_for_a_connection(database: Path | str) -> None:
    opened = Database(url_of(database))
    began = time.monotonic()
    with ExitStack() as readers:
        for _ in range(CONNECTIONS):
            readers.enter_context(opened.reading())
    assert time.monotonic() - began < 10, "it would be 30 s before one is refused"
    opened.close()


def test_workers_in_many_threads_do_every_shard_once(database: Path | str) -> None:
    """Two stores on one file, each used by three threads; a duplicate claim would be a duplicate completion."""
    stores = [Store.at(database), Store.at(database)]
    for number in range(4):
        stores[number % 2].submit(a_plan(number, images=1_000))

    with ThreadPoolExecutor(6) as threads:
        claims = [each for done in threads.map(drain, stores * 3) for each in done]

    assert max(Counter(each.id for each in claims).values()) == 1
    assert len(claims) == 40
    for number in range(4):
        found = read(stores[0], number)
        assert (found.status, found.progress.runs) == (Status.DONE, 10)
        assert len(stores[1].results(found.id)) == 10
    for store in stores:
        store.close()


def test_submissions_in_many_threads_are_all_kept_in_an_order(database: Path | str) -> None:
    stores = [Store.at(database), Store.at(database)]
    with ThreadPoolExecutor(8) as threads:
        fresh = list(threads.map(lambda number: stores[number % 2].submit(a_plan(number // 2)), range(32)))
    assert sum(fresh) == 16, "each was submitted twice"
    assert [each.sequence for each in stores[0].evaluations(limit=99)] == list(range(16, 0, -1))
    for store in stores:
        store.close()


@on_sqlite
def test_a_writer_waits_for_another_process_that_holds_the_lock(store: Store, database: Path | str) -> None:
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as thread:
        submitted = thread.submit(store.submit, a_plan())
        assert store.evaluation(a_plan().id) is None, "readers do not wait"
        assert not submitted.done()
        other.execute("COMMIT")
        assert submitted.result(timeout=30)
    other.close()


def test_every_writer_of_a_process_gets_its_turn(database: Path | str) -> None:
    """Together they write for two thirds of what one may wait."""
    opened = Database(url_of(database))

    def write() -> None:
        with opened.writing():
            time.sleep(BUSY_S * 2 / 3 / 40)

    with ThreadPoolExecutor(40) as threads:
        for written in [threads.submit(write) for _ in range(40)]:
            written.result()
    opened.close()


def test_a_writer_does_not_wait_long_for_another_one_of_its_process(database: Path | str) -> None:
    opened = Database(url_of(database))

    def write() -> None:
        with opened.writing():
            raise AssertionError("two write at once")

    with opened.writing(), ThreadPoolExecutor(1) as threads, pytest.raises(StoreError, match=r"cannot be used: .*lock"):
        threads.submit(write).result(timeout=10)
    with opened.writing():
        pass
    opened.close()


def test_what_is_written_within_a_transaction_is_part_of_it(store: Store) -> None:
    def submit_two() -> None:
        with store.writing():
            store.submit(a_plan(0))
            assert store.evaluation(a_plan(0).id) is not None, "it reads what it has written"
            with ThreadPoolExecutor(1) as other:
                assert other.submit(store.evaluation, a_plan(0).id).result() is None, "nobody else does yet"
            store.submit(a_plan(1))

    with pytest.raises(RuntimeError, match="after both"), store.writing():
        submit_two()
        raise RuntimeError("after both")
    assert store.evaluations() == []
    submit_two()
    assert len(store.evaluations()) == 2


def test_a_database_of_another_version_is_refused_and_left_as_it_is(database: Path | str) -> None:
    Store.at(database).close()
    change(database, "ALTER TABLE shards RENAME COLUMN start TO beginning")
    with pytest.raises(StoreError, match="is of another version: its table shards lacks start"):
        Store.at(database)
    with connected(database) as db:
        assert "beginning" in {each["name"] for each in inspect(db).get_columns("shards")}


@pytest.mark.parametrize("attempt", range(5))
def test_a_new_database_can_be_opened_by_many_at_once(database: Path | str, attempt: int) -> None:
    together = Barrier(8)

    def open_it() -> None:
        together.wait()
        Store.at(database).close()

    with ThreadPoolExecutor(8) as threads:
        for opened in [threads.submit(open_it) for _ in range(8)]:
            opened.result()
