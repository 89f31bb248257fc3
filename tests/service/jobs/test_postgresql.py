"""What PostgreSQL does its own way: how it is named, who waits for whom, and what happens when its server is away."""

import logging
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from urllib.parse import quote

import pytest

from evaluation import Catalog
from service.jobs.evaluations import Status
from service.jobs.store import Store
from service.server import _as_environment
from service.settings import Settings
from service.sql import postgresql as backend
from service.sql.database import StoreError
from tests.command import Run
from tests.forking import python
from tests.postgresql import PASSWORD, Postgresql, running
from tests.server import a_plan, serving, until
from tests.service.jobs.dispatching import Start, Threads, plan_of
from tests.service.jobs.dispatching import read as read_plan
from tests.service.jobs.stores import drain, on_postgresql, read

DRAIN = """
import sys
from service.jobs.store import Store
from tests.service.jobs.stores import drain
store = Store.at(sys.argv[1])
print(*(claimed.id for claimed in drain(store)))
store.close()
"""

DISPATCH = """
import sys, time
from service.jobs.store import Store
store = Store.at(sys.argv[1])
lock = store.database.lock()
assert lock.take() and store.take_dispatch(locked=True)
print("dispatches", flush=True)
time.sleep(60)
"""

CLEAN = {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}]}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "mysql://user:secret@host/name",
            "mysql://..., cannot be used; expected sqlite:////path/to/file or postgresql://user:password@host/database",
        ),
        ("sqlite://", "sqlite://..., cannot be used"),
        ("sqlite:///:memory:", "sqlite://..., cannot be used"),
        ("postgresql+psycopg2://user:secret@host/name", "cannot be used"),
        ("postgresql://user:sec@ret@host/name", "@ : / ? # of the password are written as %40"),
        ("postgresql://user:secret@host:secret/name", "the database URL cannot be read"),
        ("host=localhost password=secret", "the database URL cannot be read"),
        (
            "postgresql://user:secret@127.0.0.1:1/name",
            "postgresql://user:***@127.0.0.1:1/name cannot be used: connection failed",
        ),
        ("postgresql://user:secret@/name?host=/nowhere&password=secret", "/nowhere"),
        ("postgresql://user:secret@127.0.0.1:1/name?colour=blue", "invalid connection option"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(StoreError) as refused:
        Store.at(url)
    message = str(refused.value)
    assert reason in message
    assert "\n" not in message
    assert not any(part in message for part in ("secret", "sec@", "ret@"))


def test_a_wrong_password_is_said_and_not_shown(postgresql: Postgresql, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://guarded:{{}}@/postgres?host={postgresql.folder}"
    with pytest.raises(StoreError, match="password authentication failed") as refused:
        Store.at(url.format("wr0ng"))
    assert "wr0ng" not in str(refused.value) + str(refused.value.__cause__) + caplog.text
    with pytest.raises(StoreError, match="permission denied for schema public") as refused:
        Store.at(url.format(quote(PASSWORD, safe="")))
    assert PASSWORD not in str(refused.value) + repr(refused.value.__cause__)


def test_the_settings_do_not_show_the_url_and_hand_it_to_other_processes(tmp_path: Path) -> None:
    settings = Settings(database_url="postgresql://user:secret@host/name", data_dir=tmp_path)
    assert "secret" not in repr(settings)
    assert _as_environment(settings)["WITHSTAND_DATABASE_URL"] == settings.database


@on_postgresql
def test_processes_do_every_shard_once_and_number_them_without_gaps(store: Store, database: str) -> None:
    plans = [a_plan(number, images=2_000) for number in range(2)]
    for plan in plans:
        store.submit(plan)
    workers = [subprocess.Popen(python(DRAIN, database), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    claims = [shard for each in workers for shard in each.communicate(timeout=60)[0].split()]
    assert max(Counter(claims).values()) == 1
    assert len(claims) == 40
    for number, plan in enumerate(plans):
        found = read(store, number)
        assert (found.status, found.progress.runs, found.progress.images_done) == (Status.DONE, 20, 2_000)
        assert store.finished_after(plan.id, 0)[1] == 20
        assert [len(store.finished_after(plan.id, after)[0]) for after in range(20)] == [*range(20, 0, -1)]


@on_postgresql
def test_a_writer_that_stands_still_is_ended_and_the_others_go_on(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is stopped in the middle of a write; on SQLite it would have to be killed."""
    monkeypatch.setattr(backend, "IDLE_S", 3)
    stands, go_on = Event(), Event()

    def stand_still() -> None:
        with store.database.writing():
            stands.set()
            go_on.wait(30)

    with ThreadPoolExecutor(1) as threads, closing(Store.at(database)) as other:
        stopped = threads.submit(stand_still)
        stands.wait(30)
        began = time.monotonic()
        with pytest.raises(StoreError, match="canceling statement due to lock timeout"):
            other.submit(a_plan())
        assert time.monotonic() - began < 1.5
        assert other.evaluation(a_plan().id) is None, "readers do not wait"
        until(lambda: _submits(other), 10)
        go_on.set()
        with pytest.raises(StoreError, match="idle-in-transaction timeout"):
            stopped.result(30)
    assert len(drain(store)) == 3


def _submits(store: Store) -> bool:
    try:
        return store.submit(a_plan())
    except StoreError:
        return False


@on_postgresql
def test_a_dispatcher_hears_of_what_another_process_submits(
    store: Store, catalog: Catalog, database: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.dispatcher.POLL_S", 60)
    with Threads() as threads, closing(Store.at(database)) as other:
        dispatcher = start({"cpu": threads})
        until(dispatcher.active.is_set)
        for images in (3, 4):
            plan = plan_of(catalog, images=images)
            other.submit(plan)
            until(lambda plan=plan: read_plan(store, plan).status is Status.DONE, 20)
        dispatcher.stop()


@on_postgresql
def test_a_killed_dispatcher_is_replaced_at_once(store: Store, database: str, catalog: Catalog, start: Start) -> None:
    with (
        subprocess.Popen(python(DISPATCH, database), stdout=subprocess.PIPE) as first,
        Threads() as threads,
    ):
        assert first.stdout is not None
        assert first.stdout.readline() == b"dispatches\n"
        second = start({"cpu": threads})
        assert not second.active.wait(1.5)
        os.kill(first.pid, signal.SIGKILL)
        assert second.active.wait(2)


@pytest.fixture
def own() -> Iterator[Postgresql]:
    with running() as started:
        yield started


def test_a_server_that_goes_away_is_said_at_once_and_found_again(
    own: Postgresql, settings: Settings, tmp_path: Path
) -> None:
    where = {"data_dir": tmp_path, "database_url": own.url().replace("postgres@", "postgres:secret@")}
    with serving(settings.model_copy(update=where)) as server:
        done = server.http.post("/v1/evaluations", json=CLEAN).json()["id"]
        until(lambda: server.http.get(f"/v1/evaluations/{done}").json()["status"] == "done")
        own.stop()
        for method, path, body in (("POST", "", CLEAN | {"seed": 1}), ("GET", f"/{done}", None), ("GET", "", None)):
            began = time.monotonic()
            refused = server.http.request(method, f"/v1/evaluations{path}", json=body)
            assert time.monotonic() - began < 1
            assert refused.status_code == 503
            assert "postgresql://postgres:***@/postgres cannot be used: " in refused.json()["detail"]
            assert "secret" not in refused.text
        assert "secret" not in server.http.get("/").text
        assert server.http.get("/readyz").status_code == 503
        assert server.http.get("/healthz").status_code == 200
        own.start()
        assert server.http.get(f"/v1/evaluations/{done}").json()["status"] == "done"
        later = server.http.post("/v1/evaluations", json=CLEAN | {"seed": 1}).json()["id"]
        until(lambda: server.http.get(f"/v1/evaluations/{later}").json()["status"] == "done")


def test_the_command_says_which_setting_names_the_database(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WITHSTAND_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/name")
    refused = run("serve", "--port", 0, "--data-dir", tmp_path)
    assert (refused.status, refused.out) == (1, "")
    (line,) = refused.err.splitlines()
    assert "postgresql://user:***@127.0.0.1:1/name cannot be used: connection failed" in line
    assert line.endswith("(WITHSTAND_DATABASE_URL)")
    assert "secret" not in line
