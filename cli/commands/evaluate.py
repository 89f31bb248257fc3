"""The command `evaluate`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.commands.options import (
    DATASET,
    ClassMap,
    DataDir,
    DatasetDir,
    Device,
    Intervals,
    Json,
    ModelDir,
    settings_of,
    usable,
)
from cli.exit_codes import FAILURE, end

if TYPE_CHECKING:
    from evaluation import Catalog, Condition, EvaluationSpec, Format, Report, ResultFolder, ShardResult
    from evaluation.reports.bars import Bar

app = typer.Typer(add_completion=False)

Models = Annotated[list[str], typer.Argument(help="Names of checkpoints; `withstand models` lists them.")]
Dataset = Annotated[str, typer.Option(help=DATASET)]
Images = Annotated[
    int | None,
    typer.Option(help="Number of images to evaluate, drawn evenly from the classes.", show_default="all"),
]
Presets = Annotated[
    list[str],
    typer.Option(help="Name of a set of conditions; may be repeated. `withstand presets` lists them."),
]
Eps = Annotated[
    str | None,
    typer.Option(
        help="Radius of the attacks on the [0, 1] pixel scale, such as 4/255.", show_default="the preset's own"
    ),
]
Norm = Annotated[
    str | None, typer.Option(help="Norm in which --eps is measured: Linf, L2, L1 or L0.", show_default="Linf")
]
Logits = Annotated[
    str,
    typer.Option(
        help="Classes a model may choose from: all of its own (all), or only those of the data set (dataset)."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws except the selection of images.")]
SelectionSeed = Annotated[int, typer.Option(help="Seed of the selection of images.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision in which attacks search: float32, tf32 (on a GPU) or bfloat16. Scores are always counted in float32."
    ),
]
OnBroken = Annotated[
    str,
    typer.Option(help="What to do about pictures that cannot be decoded: fail, or skip them and list them (skip)."),
]
StopWidth = Annotated[
    float | None,
    typer.Option(
        help="End a condition early when the 95 % interval of its score is at most this wide, as a fraction such as 0.05.",
        show_default="never",
    ),
]
Out = Annotated[
    list[Path],
    typer.Option(
        help="File to write the report to; may be repeated. The ending chooses the format, such as .html or .tex; "
        "an unknown ending prints the list.",
        show_default="none",
    ),
]
MinScore = Annotated[
    list[str],
    typer.Option(
        "--min",
        help="Lowest score to accept, as CONDITION=FRACTION, such as clean=0.9 or 'pgd*=0.4'; may be repeated. Exits with "
        "status 1 if a score under a matching condition is lower or cannot be trusted.",
        show_default="none",
    ),
]
Junit = Annotated[Path | None, typer.Option(help="JUnit XML file to write, for a build server.", show_default="none")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only estimate how long the evaluation would take.", show_default="off")
]

Slurm = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Run as an array of so many Slurm jobs; --data-dir, checkpoints and data lie where all nodes see them.",
        show_default="here",
    ),
]
SlurmSet = Annotated[
    list[str],
    typer.Option(
        help="Parameter of these jobs as KEY=VALUE, such as partition=gpu, gpus_per_node=1 or time=600 (minutes); may be repeated.",
        show_default="the cluster's own",
    ),
]


@app.command()
def evaluate(
    model: Models,
    dataset: Dataset,
    images: Images = None,
    preset: Presets = ["rotation-flip"],
    eps: Eps = None,
    norm: Norm = None,
    class_map: ClassMap = None,
    logits: Logits = "all",
    seed: Seed = 0,
    selection_seed: SelectionSeed = 0,
    precision: Precision = "float32",
    on_broken: OnBroken = "fail",
    stop_width: StopWidth = None,
    out: Out = [],
    min_score: MinScore = [],
    junit: Junit = None,
    dry_run: DryRun = False,
    slurm: Slurm = None,
    slurm_set: SlurmSet = [],
    intervals: Intervals = False,
    data_dir: DataDir = None,
    device: Device = "",
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    as_json: Json = False,
) -> None:
    """Evaluate checkpoints here and now, without a server. Exits with status 1 if a score is below --min.

    If it is interrupted, run it again: it continues from the finished results.
    """
    from evaluation import EvaluationSpec
    from evaluation.reports.bars import parse_bar

    formats = {path: _format(path) for path in out}
    settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
    catalog, name = settings.catalog().with_dataset(dataset)
    fields = {
        "models": model,
        "dataset": name,
        "class_map": _class_map(class_map),
        "logits": logits,
        "images": images,
        "conditions": _conditions(preset, eps, norm),
        "precision": precision,
        "on_broken": on_broken,
        "stop_width": stop_width,
        "seed": seed,
        "selection_seed": selection_seed,
    }
    spec = EvaluationSpec.model_validate(fields)
    bars = [parse_bar(each, spec) for each in min_score]
    task = _Task(spec, catalog, device if slurm and not dry_run else usable(device), settings.data_dir)
    if dry_run:
        _print_estimate(task, as_json=as_json)
        return
    report, results = _run_on_slurm(task, slurm, slurm_set) if slurm else _run(task)
    _write(report, results, formats, catalog)
    _print(report, intervals=intervals, as_json=as_json)
    _check_bars(report, bars, junit)


class _Task(NamedTuple):
    spec: "EvaluationSpec"
    catalog: "Catalog"
    device: str
    folder: Path

    @property
    def stored(self) -> "ResultFolder":
        """Finished shards."""
        from evaluation import ResultFolder

        return ResultFolder(self.folder / "results")


def _format(path: Path) -> "Format":
    from service.http.formats import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: the ending chooses the format; it must be one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    return SUFFIXES[path.suffix]


def _class_map(path: Path | None) -> dict[str, int | str] | None:
    from evaluation.data.classes import read_class_map

    return None if path is None else read_class_map(path)


def _conditions(presets: list[str], eps: str | None, norm: str | None) -> "tuple[Condition, ...]":
    from attacks import ThreatModel
    from evaluation import conditions_of

    if norm is not None and eps is None:
        raise ValueError(f"--norm {norm} needs --eps: radii in different norms cannot be compared")
    budget: dict[str, Any] = {"norm": norm or "Linf", "eps": eps}
    return conditions_of(presets, None if eps is None else ThreatModel(**budget))


def _print_estimate(task: _Task, *, as_json: bool) -> None:
    from cli.display import describe_estimate
    from evaluation import estimate, make_plan

    plan = make_plan(task.spec, task.catalog, device=task.device)
    done = task.stored.tallies(plan, plan.shards)
    expected = estimate(plan, task.catalog, task.device, done)
    typer.echo(expected.model_dump_json(indent=2) if as_json else describe_estimate(expected))


def _run(task: _Task) -> "tuple[Report, list[ShardResult]]":
    """Evaluate behind a progress bar."""
    import evaluation

    results: list[ShardResult] = []
    with _progress() as show:

        def on_shard(result: "ShardResult", done: int, total: int) -> None:
            results.append(result)
            show(description=f"{result.shard.model}, {task.spec.conditions[result.shard.condition].title}")

        report = evaluation.evaluate(
            task.spec,
            catalog=task.catalog,
            device=task.device,
            results=task.stored,
            on_shard=on_shard,
            on_progress=lambda done, total: show(completed=done, total=total),
            on_look=lambda done, total: show(completed=done, total=total, description="decoding"),
        )
    return report, results


def _run_on_slurm(task: _Task, jobs: int, options: list[str]) -> "tuple[Report, list[ShardResult]]":
    """Let jobs store the results of all shards, behind a progress bar."""
    try:
        from cli import slurm
    except ModuleNotFoundError as error:
        raise ValueError("--slurm needs the library submitit: uv pip install '.[slurm]'") from error
    from evaluation import make_plan, merge
    from evaluation.local import Shards

    parameters = slurm.parse_parameters(options)
    stored = task.stored
    stored.require_writable()
    plan = make_plan(task.spec, task.catalog, device=task.device or "cuda")
    whole = Shards(plan, plan.shards, task.catalog, stored)
    with _progress() as show:
        queued = slurm.submit(
            [slurm.Part(each, task.device) for each in slurm.cut(whole, jobs)], task.folder / "slurm", parameters
        )
        try:
            slurm.wait(queued, whole, lambda done, total: show(completed=done, total=total))
        except slurm.JobsFailedError as error:
            end(str(error), FAILURE)
    results = whole.run(task.device or "cpu")  # all are found
    return merge(plan, results), results


@contextmanager
def _progress() -> Generator[Callable[..., None]]:
    """Show a bar on standard error, if that is a terminal; yields what updates it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    images = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    err = Console(stderr=True)
    described = TextColumn("{task.description}")
    with Progress(described, *images, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield partial(progress.update, progress.add_task("evaluating", total=None))


def _write(report: "Report", results: "list[ShardResult]", formats: "dict[Path, Format]", catalog: "Catalog") -> None:
    from evaluation import image_rows

    files = catalog.open_dataset(report.plan.spec.dataset).files
    for path, form in formats.items():
        path.write_bytes(form.to_bytes(report, lambda: image_rows(report.plan, results, files)))


def _print(report: "Report", *, intervals: bool, as_json: bool) -> None:
    from cli.display import console, print_report

    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report, console(), intervals=intervals)


def _check_bars(report: "Report", bars: "list[Bar]", junit: Path | None) -> None:
    from evaluation.reports.bars import below_bar, to_junit

    failures = below_bar(report, bars)
    if junit:
        junit.write_text(to_junit(report, failures))
    if failures:
        end("below --min: " + "; ".join(failures), FAILURE)
