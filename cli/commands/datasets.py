"""The commands about data sets: `withstand datasets`, `withstand datasets check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.exit_codes import FAILURE
from cli.options import (
    DATASET,
    ApiKeyFile,
    ClassMap,
    DataDir,
    DatasetDir,
    Json,
    ModelDir,
    Server,
    connect,
    require_here,
    settings_of,
)
from common import counted, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from evaluation import Catalog
    from evaluation.data.broken import OnLook
    from evaluation.data.dataset_check import DatasetCheck, Matched
    from withstand.answers import DatasetDetails, DatasetView, Unusable

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def list_datasets(
    context: typer.Context,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    dataset_dir: DatasetDir = [],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the data sets, or check one."""
    if context.invoked_subcommand:
        return
    require_here(server, dataset_dir=dataset_dir)
    if server is None:
        catalog = settings_of(data_dir=data_dir, dataset_dir=dataset_dir).catalog()
        found = [_listed(catalog, name, path) for name, path in catalog.datasets().items()]
    else:
        with connect(server, api_key_file) as client:
            found = [_of_service(each) for each in client.datasets()]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        holds = each.get("problem") or _counts(int(each["images"]), int(each["classes"]))
        typer.echo(", ".join([f"{each['name']}: {holds}", *([str(each["path"])] if "path" in each else [])]))


def _of_service(found: "DatasetView | Unusable") -> dict[str, str | int]:
    """Describe a data set of a service as one of this machine, but for its path."""
    if "problem" in found:
        return {"name": found["name"], "problem": f"cannot be used: {found['problem']}"}
    if found["images"] is None or found["classes"] is None:
        return {"name": found["name"], "problem": "is being counted; ask again"}
    return {"name": found["name"], "images": found["images"], "classes": len(found["classes"])}


def _listed(catalog: "Catalog", name: str, path: Path) -> dict[str, str | int]:
    from evaluation import DatasetError

    try:
        dataset = catalog.open_dataset(name)
    except DatasetError as error:
        return {"name": name, "path": printable(str(path)), "problem": printable(f"cannot be used: {error}")}
    return {"name": name, "path": printable(str(path)), "images": len(dataset), "classes": len(dataset.classes)}


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(help=DATASET)],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint whose classes the data set must match.", show_default="none")
    ] = None,
    class_map: ClassMap = None,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say what a data set holds. Exits with status 1 if a picture is broken or the classes do not match the model's.

    Here every picture is decoded. A service tells the counts and the classes; it decodes pictures as it evaluates.
    """
    require_here(server, class_map=class_map, model_dir=model_dir, dataset_dir=dataset_dir)
    if class_map and not model:
        raise ValueError(f"--class-map {class_map} needs --model, the checkpoint whose classes it names")
    if server is not None:
        with connect(server, api_key_file) as client:
            passed = _print_of_service(client.dataset(dataset, model=model), as_json=as_json)
    else:
        settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
        found = _checked(*settings.catalog().with_dataset(dataset), model, class_map)
        typer.echo(found.model_dump_json(indent=2) if as_json else describe(found))
        passed = found.passed
    if not passed:
        raise typer.Exit(FAILURE)


def _print_of_service(found: "DatasetDetails", *, as_json: bool) -> bool:
    """Print what a service reports about a data set; returns whether its classes match, if that was asked."""
    from evaluation.data.dataset_check import Matched

    match = None if found["match"] is None else Matched.model_validate(found["match"])
    held = _held(found["name"], found["images_by_class"], found["sha256"] or "")
    lines = [*held, _ignored(found["ignored"]), *_described(match)]
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    return match is None or match.problem is None


def _checked(catalog: "Catalog", name: str, model: str | None, class_map: Path | None) -> "DatasetCheck":
    from evaluation.data.classes import read_class_map
    from evaluation.data.dataset_check import check_dataset, match_with

    opened, match = catalog.open_dataset(name), None
    if model:
        classes = catalog.checkpoint(model).card().classes
        match = match_with(model, classes, opened, read_class_map(class_map) if class_map else None)
    with _progress() as progress:
        return check_dataset(name, opened, match, on_look=_shown(progress))


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    err = Console(stderr=True)
    return Progress(console=err, transient=True, disable=not err.is_terminal)


def _shown(progress: "Progress") -> "OnLook":
    task = progress.add_task("decoding", total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _counts(images: int, classes: int) -> str:
    return f"{counted(images, 'image')}, {counted(classes, 'class', 'classes')}"


def describe(found: "DatasetCheck") -> str:
    """Describe what a check found, one line per fact."""
    lines = _held(found.name, found.classes, found.sha256)
    if found.width and found.height:
        lines.append(f"width {found.width}, height {found.height} pixels (min / median / max)")
    lines.append(_ignored(found.ignored))
    lines.append(f"{counted(len(found.broken), 'picture')} cannot be used{':' * bool(found.broken)}")
    lines += [f"  {each}" for each in found.broken]
    return "\n".join(lines + _described(found.match))


def _held(name: str, images: dict[str, int], sha256: str) -> list[str]:
    """Describe the classes of a data set by how many images each has."""
    of_class = (f"  {each}: {count}" for each, count in images.items())
    return [f"{name}: {_counts(sum(images.values()), len(images))}, SHA-256 {sha256[:12]}", *of_class]


def _ignored(files: int) -> str:
    return f"{counted(files, 'other file')} ignored"


def _described(match: "Matched | None") -> list[str]:
    if match is None:
        return []
    if match.problem:
        return [match.problem]
    return [
        f"the classes match those of {match.model} by {match.rule}:",
        *(f"  {name}: {theirs}" for name, theirs in match.classes.items()),
    ]
