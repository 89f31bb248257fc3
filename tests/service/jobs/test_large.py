"""An evaluation of thousands of finished shards is read without reading their rows, however many look at it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from evaluation import EvaluationSpec, Plan, ShardResult, preset
from evaluation.results.tally import Tally
from service.settings import Settings
from service.sql.database import Database
from service.sql.tables import RESULTS
from tests.server import Server, a_plan, a_result, serving, until
from tests.service.jobs.stores import url_of

SHARDS = 7_200
CONDITIONS = 24
POLLERS, LOOKS = 20, 5


@pytest.fixture
def plan() -> Plan:
    spec = EvaluationSpec(models=("tiny",), dataset="shapes", conditions=preset("angles"))
    assert len(spec.conditions) == CONDITIONS
    return a_plan(images=100 * SHARDS // CONDITIONS, spec=spec)


@pytest.fixture
def own(settings: Settings, tmp_path: Path, plan: Plan, database: Path | str) -> Iterator[Server]:
    """A server whose database has the results of every shard of an evaluation, which is then submitted."""
    where = {"data_dir": tmp_path, "database_url": database if isinstance(database, str) else None}
    with serving(settings.model_copy(update=where)) as running:
        first = a_result(plan.shards[0])
        row = {
            "seconds": 0.5,
            "tally": Tally.of(plan, first).model_dump_json(exclude_defaults=True),
            "result": "never to be read",
        }
        rows = [{"address": plan.address(each), "images": each.images, **row} for each in plan.shards]
        opened = Database(url_of(database))
        with opened.writing() as db:
            db.execute(RESULTS.insert(), rows)
        opened.close()
        assert len(rows) == SHARDS
        running.service.store.submit(plan)
        until(lambda: running.http.get(f"/v1/evaluations/{plan.id}").json()["status"] == "done")
        yield running


def test_polls_pages_and_events_of_many_shards_are_cheap(
    own: Server, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardResult, "model_validate_json", None)  # rows may not be read
    here = f"/v1/evaluations/{plan.id}"
    first = own.http.get(here).json()
    assert (first["status"], first["progress"]["shards_done"]) == ("done", SHARDS)
    assert first["report"]["complete"]
    assert first["report"]["models"][0]["conditions"][0]["images_done"] == plan.images
    monkeypatch.setattr(Tally, "model_validate_json", None)  # what was counted is not counted again
    seconds: list[float] = []

    def poll(_: int) -> None:
        with httpx.Client(base_url=own.url, timeout=60) as http:
            for _ in range(LOOKS):
                started = time.perf_counter()
                assert http.get(here).json() == first
                seconds.append(time.perf_counter() - started)

    with ThreadPoolExecutor(POLLERS) as threads:
        assert len([*threads.map(poll, range(POLLERS))]) == POLLERS
    assert own.http.get(f"/evaluations/{plan.id}").status_code == 200
    assert '"shards_done":7200' in own.http.get(f"{here}/events").text.replace(" ", "")
    assert len(seconds) == POLLERS * LOOKS
    assert sorted(seconds)[len(seconds) // 2] < 2.0, "twenty at once on two cores, each some 20 ms"
