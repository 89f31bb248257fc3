"""Two servers on one PostgreSQL database: one is killed, the other goes on, and the report is the one that SQLite gives."""

from contextlib import closing
from pathlib import Path

import pytest

from evaluation import Catalog, EvaluationSpec, Report, image_rows, merge
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import Evaluation, ShardStatus, Status
from service.jobs.executors import available_devices
from service.jobs.store import Store
from tests.conftest import without_times
from tests.end_to_end.faults import kill
from tests.end_to_end.processes import server, wait_for
from tests.postgresql import Postgresql, postgresql
from tests.service.jobs.dispatching import Threads

__all__ = ["postgresql"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHARDS = 24

TURNS = [{"kind": "transform", "name": "rotation", "parameters": {"degrees": 6 * turn}} for turn in range(1, SHARDS)]
SPEC = EvaluationSpec.model_validate(
    {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}, *TURNS]}
)


@pytest.mark.thorough
def test_a_second_server_goes_on_where_the_first_was_killed(
    postgresql: Postgresql, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgresql.database() as url, closing(Store.at(url)) as store:

        def read(job: str) -> Evaluation:
            found = store.evaluation(job)
            assert found is not None
            return found

        monkeypatch.setenv("WITHSTAND_DATABASE_URL", url)
        folders = [tmp_path / "first", tmp_path / "second"]
        logs = [tmp_path / "first.log", tmp_path / "second.log"]
        with (
            server(catalog, folders[0], logs[0]) as (first, client),
            server(catalog, folders[1], logs[1]) as (_, other),
        ):
            job = client.submit(SPEC.model_dump(mode="json"))["id"]
            wait_for(lambda: read(job).progress.shards.get(ShardStatus.DONE, 0) >= 3)
            kill(first.pid)
            first.wait()
            before = store.results(job)
            assert read(job).progress.shards.get(ShardStatus.PENDING), "it had all but ended"
            wait_for(lambda: read(job).status.final)
            report = Report.model_validate(other.evaluation(job)["report"])
        done, results = read(job), store.results(job)
        assert (done.status, len(results)) == (Status.DONE, SHARDS)
        assert done.progress.runs <= SHARDS + len(available_devices()), (
            "what ran when the server was killed is run again"
        )
        assert all(each in results for each in before)
    on_sqlite = _results_on_sqlite(done, catalog, tmp_path / "withstand.db")
    assert image_rows(done.plan, results) == image_rows(done.plan, on_sqlite)
    assert without_times(report) == without_times(merge(done.plan, on_sqlite))


def _results_on_sqlite(done: Evaluation, catalog: Catalog, path: Path) -> list:
    with closing(Store.at(path)) as store, Threads() as threads:
        store.submit(done.plan)
        dispatcher = Dispatcher(store, catalog, lambda: {"cpu": threads})
        dispatcher.start()
        wait_for(lambda: store.evaluation(done.id).status.final)
        dispatcher.stop()
        return store.results(done.id)
