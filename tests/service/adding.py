"""What tests add as checkpoints, where to, and how."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

import models
from service.http.problems import Problem
from service.settings import Settings
from tests.conftest import CLASSES
from tests.server import Server, serving

__all__ = ["CARD", "PICTURES", "left_over", "other", "own", "problem", "send", "store", "tiny"]

PICTURES = {"resize": 32, "crop": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
CARD = {"classes": list(CLASSES), "preprocessing": PICTURES, "options": {"strides": [1, 2, 2]}, "training": "by hand"}


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a store of its own and a low limit for checkpoints; another folder lies beside the store."""
    folder = tmp_path_factory.mktemp("own")
    changed = {"data_dir": folder / "data", "model_dirs": (folder / "shared",), "max_checkpoint_bytes": 4 * 2**20}
    (folder / "shared" / "sub").mkdir(parents=True)
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.fixture(scope="module")
def store(own: Server) -> Path:
    path = own.service.catalog.store
    assert path is not None
    return path


@pytest.fixture
def tiny(tmp_path: Path, trained_network: torch.nn.Module) -> Path:
    path = tmp_path / "my.tiny.safetensors"
    save_file(trained_network.state_dict(), path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file of a network with relative positions."""
    path = tmp_path / "other.pth"
    torch.save({"state_dict": models.create("san_mini_pairwise", num_classes=3).state_dict(), "epoch": 9}, path)
    return path


def send(http: httpx.Client, path: Path, **fields: str) -> httpx.Response:
    with path.open("rb") as file:
        return http.post("/v1/models", files={"file": (path.name, file)}, data=fields)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    Problem.model_validate(answer.json())
    return answer.json()


def left_over(store: Path) -> list[str]:
    """What lies in the store beside models."""
    names = {path.stem for path in store.glob("*.json")}
    return [path.name for path in store.iterdir() if path.stem not in names]
