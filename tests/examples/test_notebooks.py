"""The notebooks run against the service and show what their text promises."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.server import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SHOWN = {
    "defended_number": [
        "^ready$",
        "^san_mini_patchwise trained by ",
        r"^at most \d+ s on one device$",
        r"^[0-9a-f]{16} done$",
        r"^clean: \d+\.\d % of n = 10 \[\d",
        r"^PGD-5 Linf 8/255: \d+\.\d % of n = 10 \[\d",
        "^grade of trust: ",
        r"^True \{'defended': '[0-9a-f]{64}'\}$",
    ],
    "compare_two_models": [
        r"^\| resnet_mini\.fashion_mnist \|",
        r"^rotation 180: \+\d+\.\d % \[.*, \d+ to \d+ of n = 50, p = ",
        r"^\{'dat_mini\.fashion_mnist': \d+, 'resnet_mini\.fashion_mnist': \d+\} predictions were right",
        r"only the DAT is right on: \['.+\.png'",
        "were not evaluated alike: number of images 50 and 10; evaluate both in one run$",
    ],
}


@pytest.fixture(scope="module")
def address(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, for a model is added."""
    with serving(settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("examples")})) as running:
        yield running.url


def cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text())["cells"]


def test_every_notebook_has_an_expectation() -> None:
    assert {each.stem for each in NOTEBOOKS} == set(SHOWN)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.stem)
def test_a_notebook_is_stored_without_what_it_printed(notebook: Path) -> None:
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        assert set(cell) - {"outputs", "execution_count"} == {"cell_type", "id", "metadata", "source"}
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.stem)
def test_a_notebook_runs(
    notebook: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("WITHSTAND_SERVER", address)
    variables: dict[str, object] = {}
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), variables)
    printed = capsys.readouterr().out
    for pattern in SHOWN[notebook.stem]:
        assert re.search(pattern, printed, flags=re.MULTILINE), f"{pattern}\n{printed}"
