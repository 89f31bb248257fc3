"""kill -9 at any moment loses nothing that is finished."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import Catalog, EvaluationSpec, Report, evaluate
from service.jobs.evaluations import ShardStatus
from service.jobs.store import Store
from tests.conftest import without_times
from tests.end_to_end.processes import alive, children, server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPEC = EvaluationSpec.model_validate(
    {
        "models": ["tiny", "twin"],
        "dataset": "shapes",
        "conditions": [
            {"kind": "clean"},
            *(
                {
                    "kind": "adversarial",
                    "threat": {"norm": "Linf", "eps": eps},
                    "attacks": [{"name": "pgd", "parameters": {"steps": 100}}],
                }
                for eps in ("2/255", "4/255", "8/255")
            ),
        ],
    }
)


@pytest.fixture(scope="module")
def uninterrupted(catalog: Catalog) -> dict[str, object]:
    return without_times(evaluate(SPEC, catalog=catalog, device="cpu"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")
def test_a_killed_server_goes_on_where_it_was(
    catalog: Catalog, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with server(catalog, tmp_path, log) as (process, client):
        submitted = client.submit(SPEC.model_dump(mode="json"))
        state = next(s for s in client.watch(submitted["id"]) if s["progress"]["shards_done"] >= 2)
        device_processes = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state["status"] == "running"
    wait_for(lambda: not any(alive(pid) for pid in device_processes))

    store = Store.at(tmp_path / "withstand.db")
    interrupted = store.evaluation(submitted["id"])
    assert interrupted is not None
    stored = store.results(submitted["id"])
    assert 2 <= len(stored) < 8

    with server(catalog, tmp_path, log) as (_, client):
        *_, final = client.watch(submitted["id"])
        report = Report.model_validate(client.evaluation(submitted["id"])["report"])
    assert final["status"] == "done"
    assert report.complete
    assert without_times(report) == uninterrupted

    # Finished shards were stored as they were; only those that were interrupted were handed out twice.
    finished = store.evaluation(submitted["id"])
    assert finished is not None
    assert [result for result in store.results(submitted["id"]) if result in stored] == stored
    assert finished.progress.runs == 8 + interrupted.progress.shards.get(ShardStatus.RUNNING, 0)
    store.close()


def test_a_killed_device_process_costs_one_try(
    catalog: Catalog, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    with server(catalog, tmp_path, tmp_path / "server.log") as (process, client):
        submitted = client.submit(SPEC.model_dump(mode="json"))
        watched = client.watch(submitted["id"])
        next(state for state in watched if state["progress"]["shards_done"] >= 1)
        worker = max(children(process.pid))
        os.kill(worker, signal.SIGKILL)
        *_, final = watched
        report = Report.model_validate(client.evaluation(submitted["id"])["report"])
    assert final["status"] == "done"
    assert without_times(report) == uninterrupted


def test_a_killed_command_goes_on_where_it_was(catalog: Catalog, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "evaluate", "tiny", "twin", "--dataset", "shapes", "--json"]
    command += ["--preset", "pgd-100", "--preset", "steps", "--device", "cpu", "--data-dir", str(tmp_path)]
    command += [f"--model-dir={folder}" for folder in catalog.model_folders]
    command += [f"--dataset-dir={folder}" for folder in catalog.dataset_folders]

    def stored() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/*/*.json")}

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: len(stored()) >= 3)
        process.kill()
    before = stored()
    assert 3 <= len(before) < 18
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    report = Report.model_validate_json(ended.stdout)
    assert report.complete
    assert before.items() <= stored().items(), "what was finished was not touched"
    assert without_times(report) == without_times(evaluate(report.plan.spec, catalog=catalog, device="cpu"))
