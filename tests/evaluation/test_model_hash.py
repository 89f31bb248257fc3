"""The hash of a model: everything that decides its answers, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

import models
from evaluation import Catalog

NAME = "resnet_mini.fashion_mnist"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for ending in (".safetensors", ".json"):
        shutil.copy(models.ZOO / f"{NAME}{ending}", tmp_path / f"m{ending}")
    return tmp_path


def hash_with(folder: Path, **fields: object) -> str:
    path = folder / "m.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return Catalog(model_folders=(folder,)).model_sha256("m")


def test_what_decides_answers_is_in_the_hash(folder: Path) -> None:
    first = hash_with(folder)
    classes = [f"c{index}" for index in range(10)]
    found = {hash_with(folder, **{field: value}) for field, value in (
        ("weights", "plain"), ("weights", "ema"), ("classes", classes), ("preprocessing", {"crop": 32, "resize": 32}),
    )}  # fmt: skip
    assert len(found | {first}) == 5


def test_what_is_only_told_of_a_model_is_not_in_the_hash(folder: Path) -> None:
    first = hash_with(folder)
    assert hash_with(folder, training="by hand", licence="MIT", weights=None) == first
