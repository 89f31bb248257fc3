"""Options that several commands share, and the functions that read them."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service import DATA_DIR

if TYPE_CHECKING:
    import torch

    from evaluation import Format
    from models import Classifier
    from service.jobs.evaluations import Evaluation
    from service.jobs.store import Store
    from service.settings import Settings
    from withstand import Client

PATIENCE_S = 5.0
"""How long a service that cannot be reached is asked again, seconds."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.", show_default="off")]
Intervals = Annotated[
    bool, typer.Option("--intervals", help="Print the 95 % interval of every score.", show_default="off")
]
ModelDir = Annotated[
    list[Path],
    typer.Option(help="Folder with more checkpoints and their cards; may be repeated.", show_default="only the zoo"),
]
DatasetDir = Annotated[
    list[Path], typer.Option(help="Folder with more data sets; may be repeated.", show_default="only the zoo")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of added models, results and the service's database.",
        envvar="WITHSTAND_DATA_DIR",
        show_default=DATA_DIR,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Address of a running service to ask, such as http://127.0.0.1:8000.",
        envvar="WITHSTAND_SERVER",
        show_default="none: here, with --data-dir",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(help="File with the API key of that service.", show_default="the variable WITHSTAND_API_KEY"),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of an evaluation; `withstand evaluations` lists them.")]
ClassMap = Annotated[
    Path | None,
    typer.Option(
        help="JSON file that names the model's class, or its index, for every class of the data set.",
        show_default="matched by name, WordNet id or index",
    ),
]
DATASET = "Name of a data set, as `withstand datasets` lists it, or path of a folder, .zip or .tar."
"""Help of an option or argument that names a data set."""

Device = Annotated[
    str, typer.Option(help="Device to compute on, such as cpu or cuda.", show_default="the GPU if there is one")
]


def settings_of(
    *,
    data_dir: Path | None = None,
    model_dir: Sequence[Path] = (),
    dataset_dir: Sequence[Path] = (),
    **more: Any,
) -> "Settings":
    """Read the settings from the environment; given options take precedence.

    Args:
        data_dir: see `Settings`; None or empty means not given, here and below.
        model_dir: value of `model_dirs`.
        dataset_dir: value of `dataset_dirs`.
        more: further settings by name.
    """
    from service.settings import Settings

    given: dict[str, Any] = more | {"data_dir": data_dir, "model_dirs": model_dir, "dataset_dirs": dataset_dir}
    return Settings(**{name: value for name, value in given.items() if value not in (None, [], ())})


def connect(server: str, api_key_file: Path | None = None) -> "Client":
    """Connect to a service, with the API key of a file or of the environment if there is one."""
    from withstand import Client

    key = os.environ.get("WITHSTAND_API_KEY") if api_key_file is None else api_key_file.read_text().strip()
    return Client(server, api_key=key or None, patience_s=PATIENCE_S)


@contextmanager
def stored(data_dir: Path | None) -> "Generator[Store]":
    """Open the database of a data folder; raises ValueError if there is none."""
    from service.jobs.store import Store

    database = settings_of(data_dir=data_dir).database
    if isinstance(database, Path) and not database.is_file():
        raise ValueError(
            f"no service has stored anything in {database.parent}: give its folder with --data-dir, or its address with --server"
        )
    store = Store.at(database)
    try:
        yield store
    finally:
        store.close()


def stored_evaluation(evaluation_id: str, store: "Store") -> "Evaluation":
    """Read an evaluation from a database; raises UnknownNameError if there is none of that id."""
    from common import UnknownNameError

    found = store.evaluation(evaluation_id)
    if found is None:
        raise UnknownNameError("evaluation", f"there is no evaluation {evaluation_id!r}")
    return found


def require_here(server: str | None, **given: object) -> None:
    """Refuse options that say how to work here where a service is asked; raises ValueError."""
    for name, value in given.items():
        if server is not None and value:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is for work on this machine, but the service at {server} is asked (--server)")


def format_of(path: Path) -> "Format":
    """Find the format that the ending of a report's file asks for; raises ValueError if the file cannot be written."""
    from service.http.formats import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: the ending chooses the format; it must be one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    return SUFFIXES[path.suffix]


def usable(device: str) -> str:
    """Return the device to compute on, the best one if none is named; raises ValueError if it cannot be used."""
    import torch

    from evaluation import best_device

    try:
        torch.empty(0, device=device or None)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the device {device!r} cannot be used: {reason}") from error
    return device or best_device()


def read_picture(classifier: "Classifier", path: Path) -> "torch.Tensor":
    """Read a picture file as an image (3, H, W) in [0, 1] for a model; raises PictureError with the file's name."""
    from common.pictures import PictureError, open_picture

    try:
        return classifier.card.preprocessing(open_picture(path.read_bytes()))
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error
