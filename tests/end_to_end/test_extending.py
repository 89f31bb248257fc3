"""What docs/extending.md says is enough: its files, put where it says, work, and no other file is touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PACKAGES = ("attacks", "evaluation", "models")


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the packages that files are added to; everything else is where it was."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    return tmp_path


def printed(code: str) -> list[str]:
    return re.findall(r"print\(.*\)  # (.*)", code)


def execute(house: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)


def run(house: Path, code: str, *, of: str = "models") -> subprocess.CompletedProcess[str]:
    checked = f"import {of}\nassert {of}.__file__.startswith({str(house)!r})\n{code}"
    return execute(house, sys.executable, "-W", "error", "-c", checked)


def file(text: str) -> str:
    (found,) = re.findall(r"Save it as `([\w/]+\.py)`", text)
    return found


TEXT = section("A model family")
FAMILY, USE = blocks(TEXT)
FILE = file(TEXT)
ATTACK_TEXT = section("An attack")
ATTACK, ATTACK_USE = blocks(ATTACK_TEXT)
ATTACK_FILE = file(ATTACK_TEXT)
FORMAT_TEXT = section("A report format")
(FORMAT,) = blocks(FORMAT_TEXT)
(FORMAT_USE,) = blocks(FORMAT_TEXT, "bash")
FORMAT_FILE = file(FORMAT_TEXT)


def test_a_family_of_one_file_is_created_recognised_loaded_folded_and_explained(house: Path) -> None:
    (house / FILE).write_text(FAMILY)
    done = run(house, USE + CHECKS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed(USE)


CHECKS = """
from torch import nn

assert "attention_pool" in models.names() and "san10_pairwise" in models.names()
assert {each.field for each in added.assumed} == {
    "classes", *(f"preprocessing.{name}" for name in ("resize", "crop", "interpolation", "mean", "std"))
}
assert (added.input_shape, added.macs) == ((3, 32, 32), 48 * 27 * 256 + 48 * 256 + 480)
assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.network.modules())
assert any(isinstance(module, nn.BatchNorm2d) for module in classifier.network.modules())
weights = seen.maps * seen.scale[..., None, None]
assert torch.allclose(weights.sum((1, 2, 3)), torch.ones(2))

try:
    models.attention_maps(models.load("resnet_mini.fashion_mnist"), images)
except models.NoAttentionError as error:
    assert "attention pooling" in str(error)
else:
    raise AssertionError("a ResNet has no attention")
"""


def test_without_its_file_the_family_is_unknown(house: Path) -> None:
    done = run(house, USE)
    assert done.returncode == 1
    assert "UnknownNameError: unknown architecture 'attention_pool'" in done.stderr


@pytest.mark.parametrize(
    ("files", "error"),
    [
        pytest.param(
            {"a.py": FAMILY, "b.py": FAMILY},
            "family 'attention pooling' is registered twice",
            marks=pytest.mark.thorough,
        ),
        (
            {"a.py": FAMILY.replace('ModelSpec("attention_pool"', 'ModelSpec("resnet50"')},
            "architecture 'resnet50' is registered twice",
        ),
        ({"a.py": "import a_library_that_is_not_there"}, "No module named 'a_library_that_is_not_there'"),
    ],
)
def test_a_family_that_cannot_be_registered_stops_the_import(house: Path, files: dict[str, str], error: str) -> None:
    for name, text in files.items():
        (house / FILE).with_name(name).write_text(text)
    done = run(house, "")
    assert done.returncode == 1
    assert error in done.stderr


def test_an_attack_of_one_file_is_listed_run_and_evaluated(house: Path) -> None:
    (house / ATTACK_FILE).write_text(ATTACK)
    done = run(house, ATTACK_USE + ATTACK_CHECKS, of="attacks")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed(ATTACK_USE)


ATTACK_CHECKS = """
(listed,) = [each for each in attacks.describe() if each.name == "shift"]
assert (listed.norms, listed.targetable, listed.parameters["levels"]["default"]) == (("Linf",), False, 8)
assert torch.allclose(run.adversarial, images.clamp(0, 1), atol=threat.eps + 1e-6)
assert run.images_forwarded == len(images) * (attacks.create("shift", levels=4).passes + 2)

clean, shifted = report.models[0].conditions
assert report.complete
assert not shifted.outside_budget
assert 0 < shifted.robust_accuracy.value < clean.accuracy.value
"""


@pytest.mark.thorough
def test_a_format_of_one_file_is_written_by_the_command_line(house: Path) -> None:
    (house / FORMAT_FILE).write_text(FORMAT)
    done = execute(house, "bash", "-ec", FORMAT_USE)
    assert done.returncode == 0, done.stderr
    names, scores = (line.split("\t") for line in (house / "scores.tsv").read_text().splitlines())
    assert names[:3] == ["model", "clean", "rotation 90"]
    assert scores[0] == "resnet_mini.fashion_mnist"
    assert 0 < float(scores[2]) < float(scores[1]) < 1


def test_a_format_of_one_file_is_offered_everywhere(house: Path) -> None:
    (house / FORMAT_FILE).write_text(FORMAT)
    done = run(house, FORMAT_CHECKS, of="evaluation")
    assert done.returncode == 0, done.stderr


FORMAT_CHECKS = """
from pathlib import Path

from service.app import create_app
from service.settings import Settings

schema = create_app(Settings(data_dir=Path("data"))).openapi()
assert "tsv" in schema["components"]["schemas"]["ReportFormat"]["enum"]
assert "- tsv: the scores alone" in str(schema["paths"]["/v1/evaluations/{evaluation_id}/report"])
"""


@pytest.mark.parametrize(
    ("file", "text", "of", "error"),
    [
        pytest.param(
            *(ATTACK_FILE, ATTACK.replace('"shift"', '"pgd"'), "attacks", "attack 'pgd' is registered twice"),
            marks=pytest.mark.thorough,
        ),
        (FORMAT_FILE, FORMAT.replace(".tsv", ".csv"), "evaluation", "'csv' and 'tsv' have the same suffix '.csv'"),
    ],
)
def test_a_file_that_cannot_be_registered_stops_the_import(
    house: Path, file: str, text: str, of: str, error: str
) -> None:
    (house / file).write_text(text)
    done = run(house, "", of=of)
    assert done.returncode == 1
    assert error in done.stderr
