"""Options that several commands have, and what they mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from models import Classifier
    from service.settings import Settings

LOOPBACK = "127.0.0.1"

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.", show_default="off")]
Intervals = Annotated[
    bool, typer.Option("--intervals", help="Print the 95 % interval of every score.", show_default="off")
]
ModelDir = Annotated[
    list[Path],
    typer.Option(
        help="Folder with more checkpoints and their cards; may be given again.", show_default="the zoo alone"
    ),
]
DatasetDir = Annotated[
    list[Path], typer.Option(help="Folder with more data sets; may be given again.", show_default="the zoo alone")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of added models, finished work and the service's database.", show_default=".withstand"),
]
Url = Annotated[
    str | None, typer.Option(help="Address of a running service to ask.", show_default="the data folder here")
]
ApiKey = Annotated[
    str | None, typer.Option(help="API key of that service.", envvar="WITHSTAND_API_KEY", show_default="none")
]
ClassMap = Annotated[
    Path | None,
    typer.Option(
        help="JSON file with the model's class, by name or index, for every class of the data set.",
        show_default="found by name, WordNet id or index",
    ),
]
DATASET = "Name of the data set, or path of a folder, .zip or .tar."
"""Help of what names one."""

Device = Annotated[
    str, typer.Option(help="Where to compute, such as cpu or cuda.", show_default="the GPU if there is one")
]


def settings_of(
    *,
    data_dir: Path | None = None,
    model_dir: Sequence[Path] = (),
    dataset_dir: Sequence[Path] = (),
    host: str | None = LOOPBACK,
    **more: Any,
) -> "Settings":
    """Read the settings from the environment; flags that were given go first.

    Args:
        data_dir: see `Settings`, as all others; what is None or empty was not given.
        model_dir: gives `model_dirs`.
        dataset_dir: gives `dataset_dirs`.
        host: this machine, unless the command listens.
        more: further settings by name.
    """
    from service.settings import Settings

    given: dict[str, Any] = more | {
        "host": host,
        "data_dir": data_dir,
        "model_dirs": model_dir,
        "dataset_dirs": dataset_dir,
    }
    return Settings(**{name: value for name, value in given.items() if value not in (None, [], ())})


def usable(device: str) -> str:
    """Name the device to compute on; raises ValueError if nothing can be computed there."""
    import torch

    from evaluation import best_device

    try:
        torch.empty(0, device=device or None)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"nothing can be computed on the device {device!r}: {reason}") from error
    return device or best_device()


def read_picture(classifier: "Classifier", path: Path) -> "torch.Tensor":
    """Read a picture file as a model's image (3, H, W); raises PictureError with the file's name."""
    from common.pictures import PictureError, open_picture

    try:
        return classifier.card.preprocessing(open_picture(path.read_bytes()))
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error
