"""Small real things: checkpoints and data sets that are made in a moment."""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

# Before torch, and for the processes that tests start: there are as many workers as cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import models
from common import file_sha256
from evaluation import Catalog, Report
from models.ops import triton_choice
from tests.forking import forking

CLASSES = ("disc", "square", "stripes")
TINY_OPTIONS = {"widths": [4, 4, 8], "blocks": 1}


@pytest.fixture(autouse=True, scope="session")
def _forked() -> Iterator[None]:
    """The processes that tests start need not import torch; on a GPU they do, for one that was forked might not use it."""
    with forking() if sys.platform == "linux" and not torch.cuda.is_available() else nullcontext():
        yield


@pytest.fixture(autouse=True, scope="session")
def _default_launches() -> None:
    """What many test processes measure on one GPU at a time is not worth storing."""
    triton_choice.SECONDS = 0.0


def picture_bytes(picture: Image.Image, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, kind)
    return encoded.getvalue()


def shape_picture(label: int, generator: np.random.Generator, side: int = 32) -> Image.Image:
    """Draw a noisy disc, square or stripes."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    ground = [np.hypot(x, y) < side / 3, np.maximum(abs(x), abs(y)) < side / 3, (x + y) % 8 < 4][label]
    noisy = 60 + 130 * ground + generator.normal(0, 12, (side, side))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def shapes_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-three pictures in three classes."""
    path = tmp_path_factory.mktemp("datasets") / "shapes.zip"
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(33):
            label = index % 3
            archive.writestr(f"{CLASSES[label]}/{index:02d}.png", picture_bytes(shape_picture(label, generator)))
    return path


@pytest.fixture(scope="session")
def trained_network() -> torch.nn.Module:
    """A tiny ResNet that tells the shapes apart."""
    torch.manual_seed(0)
    network = models.create("resnet_mini", num_classes=len(CLASSES), **TINY_OPTIONS)
    generator = np.random.default_rng(1)
    labels = torch.arange(96) % 3
    pictures = [np.asarray(shape_picture(int(label), generator)) for label in labels]
    images = torch.from_numpy(np.stack(pictures)).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network((images - 0.5) / 0.25), labels).backward()
        optimizer.step()
    return network.eval()


def without_times(report: Report) -> dict[str, object]:
    """What must be equal however and wherever an evaluation ran; checks look at the first batch, whatever its size."""
    of_condition = {"__all__": {"seconds", "examples"}}
    of_models = {"__all__": {"checks": True, "conditions": of_condition}}
    return report.model_dump(exclude={"models": of_models, "plan": {"shard_images", "costly_images"}})


Put = Callable[..., Path]


@pytest.fixture(scope="session")
def put_checkpoint(trained_network: torch.nn.Module) -> Put:
    """Write the tiny checkpoint with its card into a folder; keyword arguments change the card."""

    def put(folder: Path, name: str, **changes: object) -> Path:
        path = folder / f"{name}.safetensors"
        save_file(trained_network.state_dict(), path)
        facts = {
            "architecture": "resnet_mini",
            "options": TINY_OPTIONS,
            "classes": CLASSES,
            "preprocessing": {"resize": 32, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
            "sha256": file_sha256(path),
            **changes,
        }
        card = models.ModelCard.model_validate(facts)
        path.with_name(f"{name}.json").write_text(card.model_dump_json())
        return path

    return put


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory, shapes_zip: Path, put_checkpoint: Put) -> Catalog:
    """Two tiny models named `tiny` and `twin`, and the data set `shapes`."""
    folder = tmp_path_factory.mktemp("models")
    put_checkpoint(folder, "tiny")
    put_checkpoint(folder, "twin")
    return Catalog((folder,), (shapes_zip.parent,))
