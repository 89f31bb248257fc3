"""An evaluation as an array of jobs; submitit's local cluster runs them as processes of this machine."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import cli.slurm
import evaluation.plan
from cli.slurm import JobsFailedError, Part, cut, parse_parameters, submit, wait
from evaluation import Catalog, EvaluationSpec, ResultFolder, evaluate, make_plan, merge
from evaluation.local import Shards
from tests.command import Run
from tests.conftest import without_times
from tests.server import until

PGD: dict[str, Any] = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "16/255"},
    "attacks": [{"name": "pgd", "parameters": {"steps": 9, "step_size": "2/255"}}],
}
SPEC = EvaluationSpec.model_validate(
    {"models": ["tiny"], "dataset": "shapes", "images": 30, "conditions": [{"kind": "clean"}, PGD]}
)


@pytest.fixture
def whole(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """An evaluation of twelve shards; a pass through a condition of ten costs ten times as much."""
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 5)
    monkeypatch.setattr(cli.slurm, "POLL_S", 0.1)
    plan = make_plan(SPEC, catalog)
    return Shards(plan, plan.shards, catalog, ResultFolder(tmp_path / "results"))


def told(*_progress: int) -> None:
    pass


def preempt(logs: Path) -> None:
    """Send the signal that Slurm sends to jobs that have to give way."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            command = path.read_bytes().split(b"\0")
            if b"submitit.core._submit" in command and any(str(logs).encode() in each for each in command):
                os.kill(int(path.parent.name), signal.SIGUSR2)


def test_parts_are_neighbours_of_about_the_same_number_of_passes(whole: Shards) -> None:
    plan = whole.plan
    parts = [*cut(whole, 3)]
    assert [each for part in parts for each in part.shards] == plan.shards, "in order, each once"
    passes = [sum(each.images * (1, 10)[each.condition] for each in part.shards) for part in parts]
    assert sum(passes) == 30 * 11 and max(passes) - min(passes) <= 5 * 10
    assert [each for part in cut(whole, 100) for each in part.shards] == plan.shards
    whole.of(plan.shards[:9]).run("cpu")
    assert [part.shards for part in cut(whole, 2)] == [plan.shards[9:10], plan.shards[10:]]
    whole.run("cpu")
    assert [*cut(whole, 2)] == []


@pytest.mark.slow
def test_jobs_make_the_report_of_one_process(whole: Shards, catalog: Catalog, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    jobs = submit([Part(each, "cpu") for each in cut(whole, 2)], tmp_path / "logs", {}, cluster="local")
    assert len(jobs) == 2
    wait(jobs, whole, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (60, 60)
    assert len(whole.tallies()) == 12, "nothing is left to do"
    together = merge(whole.plan, whole.run("cpu"))
    alone = evaluate(SPEC, catalog=catalog, device="cpu")
    assert without_times(together) == without_times(alone)


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on(whole: Shards, tmp_path: Path) -> None:
    slower = PGD | {"attacks": [PGD["attacks"][0] | {"restarts": 30}]}
    spec = SPEC.model_copy(
        update={"conditions": EvaluationSpec.model_validate({**SPEC.model_dump(), "conditions": [slower]}).conditions}
    )
    plan = make_plan(spec, whole.catalog)
    slow = Shards(plan, plan.shards, whole.catalog, whole.results)
    (job,) = submit([Part(slow, "cpu")], tmp_path / "logs", {}, cluster="local")
    until(lambda: len(slow.tallies()) >= 2)
    preempt(tmp_path / "logs")
    first = {each.shard: each.seconds for each in slow.tallies()}
    assert len(first) < len(plan.shards), "it was interrupted in the middle"
    wait([job], slow, told)
    assert first.items() <= {each.shard: each.seconds for each in slow.tallies()}.items(), (
        "what was finished was not run again"
    )
    assert len(slow.tallies()) == len(plan.shards)


@pytest.mark.slow
def test_jobs_that_fail_say_why_and_what_is_finished_stays(whole: Shards, tmp_path: Path) -> None:
    good, bad = cut(whole, 2)
    lost = Shards(bad.plan, bad.shards, Catalog((tmp_path / "nowhere",), (tmp_path / "nowhere",)), bad.results)
    began = time.monotonic()
    jobs = submit([Part(good, "cpu"), Part(lost, "cpu")], tmp_path / "logs", {}, cluster="local")
    with pytest.raises(
        JobsFailedError, match=r"1 of 2 jobs failed \(\d+\), the first with: .*Error: .*tiny.*logs are in "
    ) as failed:
        wait(jobs, whole, told)
    assert str(tmp_path / "logs") in str(failed.value)
    assert len(whole.tallies()) == len(good.shards)
    assert time.monotonic() - began < 120


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--slurm", 2], "Slurm's srun and sbatch, which are not here"),
        (["--slurm", 2, "--slurm-set", "gpu"], "--slurm-set takes KEY=VALUE, such as partition=gpu; got 'gpu'"),
        (["--slurm", 0], "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_queued_is_told(
    run: Run, here: list[str], options: list[object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 9, *options, *here)
    assert ended.status == 2 and told in ended.err


def test_parameters_are_numbers_where_they_look_like_it() -> None:
    assert parse_parameters(["partition=gpu", "gpus_per_node=1"]) == {"partition": "gpu", "gpus_per_node": 1}
