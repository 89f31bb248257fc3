"""Options that several commands have, and what they mean."""

from pathlib import Path
from typing import Annotated

import torch
import typer

import evaluation
import models
from common.pictures import PictureError, open_picture
from evaluation import Catalog
from service.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.", show_default="off")]
ModelDir = Annotated[
    list[Path],
    typer.Option(
        help="Folder with more checkpoints and their cards; may be given again.", show_default="the zoo alone"
    ),
]
DatasetDir = Annotated[
    list[Path], typer.Option(help="Folder with more data sets; may be given again.", show_default="the zoo alone")
]
Device = Annotated[
    str, typer.Option(help="Where to compute, such as cpu or cuda.", show_default="the GPU if there is one")
]


def catalog_of(model_dirs: list[Path], dataset_dirs: list[Path], data_dir: Path = Path(".withstand")) -> Catalog:
    """Where names are looked up: the zoo, these folders, what was added."""
    return Settings(model_dirs=tuple(model_dirs), dataset_dirs=tuple(dataset_dirs), data_dir=data_dir).catalog()


def usable(device: str) -> str:
    """Name the device to compute on; raises ValueError if nothing can be computed there."""
    try:
        torch.empty(0, device=device or None)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"nothing can be computed on the device {device!r}: {reason}") from error
    return device or evaluation.best_device()


def read_picture(classifier: models.Classifier, path: Path) -> torch.Tensor:
    """Read a picture file as a model's image (3, H, W); raises PictureError with the file's name."""
    try:
        return classifier.card.preprocessing(open_picture(path.read_bytes()))
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error
