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


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of what a family is added to; everything else is where it was."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    return tmp_path


def run(house: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"}
    checked = f"import models\nassert models.__file__.startswith({str(house)!r})\n{code}"
    command = [sys.executable, "-W", "error", "-c", checked]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)


TEXT = section("A model family")
FAMILY, USE = blocks(TEXT)
(FILE,) = re.findall(r"Save it as `(models/families/\w+\.py)`", TEXT)


def test_a_family_of_one_file_is_created_recognised_loaded_folded_and_explained(house: Path) -> None:
    (house / FILE).write_text(FAMILY)
    done = run(house, USE + CHECKS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", USE)


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
        ({"a.py": FAMILY, "b.py": FAMILY}, "family 'attention pooling' is registered twice"),
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
