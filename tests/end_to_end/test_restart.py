"""kill -9 of the command loses nothing that is finished; test_faults.py does the same to the service."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import Catalog, Report, evaluate
from tests.conftest import without_times
from tests.end_to_end.processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_killed_command_goes_on_where_it_was(catalog: Catalog, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "evaluate", "tiny", "twin", "--dataset", "shapes", "--json"]
    command += ["--preset", "pgd-20", "--preset", "steps", "--device", "cpu", "--data-dir", str(tmp_path)]
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
