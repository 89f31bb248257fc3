"""The page of everything on a GPU, at toy size on the CPU: its stages, those that fail, and the simulated device."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from tomllib import loads

import pytest

from benchmarks.gpu import stages
from benchmarks.gpu.__main__ import RESULTS, STAGES, page, progress
from benchmarks.gpu.simulated import Device
from benchmarks.gpu.stages import GRACE_S, Stage, run, surroundings

REPOSITORY = RESULTS.parents[1]

FAILING = "print('first', flush=True)\nraise SystemExit('no device')"
CRASHING = "import os\nprint('first', flush=True)\nos.abort()"
HANGING = """
import time
try:
    print('first', flush=True)
    time.sleep(60)
finally:
    print('tidied up', flush=True)
"""


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Stage]:
    """Stages of small modules."""
    sources = {"failing": FAILING, "crashing": CRASHING, "hanging": HANGING, "good": "print('all of it')"}
    for name, source in sources.items():
        (tmp_path / f"stage_{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {name: Stage(name, name.title(), f"stage_{name}", 20) for name in sources}


def test_a_stage_that_fails_is_reported_and_ends_no_other(put: Mapping[str, Stage]) -> None:
    chosen = [put["failing"], put["crashing"], put["good"]]
    pages = [page("A device", "versions", outcomes) for outcomes in progress(chosen, 1)]
    assert [each.count("\n## ") for each in pages] == [1, 2, 3]
    failing, crashing, good = pages[-1].split("\n## ")[1:]
    assert "first\n\n**Failed, exit status 1.**" in failing and "no device" in failing
    assert "**Failed, exit status -6.**" in crashing
    assert good == "Good\n\nall of it\n"
    assert "| good | done | " in pages[-1]


def test_a_stage_that_takes_too_long_is_interrupted_and_keeps_what_it_printed(
    put: Mapping[str, Stage], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    start = time.monotonic()
    outcome = run(put["hanging"], 3.0, tmp_path, surroundings(tmp_path))
    assert outcome.status == "ended at its limit of 3 s"
    assert outcome.printed == "first\ntidied up\n"
    assert "KeyboardInterrupt" in outcome.trouble
    assert time.monotonic() - start < GRACE_S


def test_a_stage_without_its_packages_is_left_out(tmp_path: Path) -> None:
    stage = Stage("odd", "Odd", "benchmarks.gpu.suite", 20, ("pytest", "no_such_package"))
    outcome = run(stage, 20, tmp_path, {})
    assert outcome.section == "## Odd\n\n**Left out, not installed: no_such_package.**"


def test_all_limits_together_are_eight_minutes() -> None:
    assert sum(each.seconds + GRACE_S for each in STAGES) <= 470


def test_the_version_is_known_where_the_project_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(stages, "version", unknown)
    ask = [sys.executable, "-S", "-c", "from importlib.metadata import version; print(version('withstand'))"]
    answer = subprocess.check_output(ask, env=surroundings(tmp_path), cwd=tmp_path, text=True)
    assert answer.strip() == loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def test_only_predictions_need_the_service() -> None:
    modules = ", ".join(each.module for each in STAGES if each.name != "predictions")
    code = f"import sys, {modules}\nprint(*{{'fastapi', 'uvicorn', 'sqlalchemy', 'service'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True).strip() == ""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_stage_at_toy_size(tmp_path: Path) -> None:
    before = sorted(RESULTS.iterdir())
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--seconds", "1"]
    answer = subprocess.run(command, env=environment, cwd=REPOSITORY, text=True, capture_output=True, check=True)
    (file,) = tmp_path.iterdir()
    assert file.name == "gpu_toy_on_a_cpu.md" and sorted(RESULTS.iterdir()) == before
    text = file.read_text()
    assert answer.stdout.strip() == text.strip()
    assert text.count(" | done | ") == len(STAGES), text
    suite, attacks, evaluation, predictions, san = text.split("\n## ")[1:]
    assert " passed" in suite
    for contender in ("torchattacks", "floor, eager", "ours, random start", "ours, run_attack", "floor, compiled"):
        assert f"| {contender} | float32 | " in attacks
    assert "failed" not in attacks and "| ours, random start | bfloat16 | " in attacks
    assert "| clean | " in evaluation and "| PGD-2 (last step), float32 | " in evaluation
    assert "\n| no graphs | 8 | " in predictions
    assert "pairwise stage 4    tiled" in san and "patchwise stage 4   tiled" in san


def test_the_simulated_device_runs_one_pass_at_a_time() -> None:
    device = Device(0.001, 0.002)
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(device.work, [0.05] * 4))
    assert 0.2 <= device.busy_s <= time.perf_counter() - start


@pytest.mark.thorough
def test_a_slow_device_is_busy_and_a_fast_one_waits_for_pictures() -> None:
    def table(forward_ms: str, backward_ms: str) -> dict[str, list[str]]:
        flags = ["--images", "12", "--forward-ms", forward_ms, "--backward-ms", backward_ms]
        command = [sys.executable, "-m", "benchmarks.gpu.simulated", *flags]
        lines = subprocess.check_output(command, cwd=REPOSITORY, text=True).splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        return {row[0]: row[1:] for row in rows if len(row) == 7}

    def busy(row: list[str]) -> int:
        return int(row[2].removesuffix(" %"))

    fast, slow = table("0.01", "0.02"), table("5", "10")
    assert busy(fast["clean, first run"]) < 20 and busy(fast["PGD-10 (last step), first run"]) < 50
    assert 70 < busy(slow["PGD-10 (last step), again"]) <= 100
    assert busy(slow["clean, again"]) > busy(fast["clean, again"])
    for row in ("clean", "PGD-10 (last step)"):
        assert float(slow[f"{row}, first run"][4]) > 0
        assert [float(slow[f"{row}, {run}"][4]) for run in ("again", "pixels removed")] == [0, 0], "decoded before"
