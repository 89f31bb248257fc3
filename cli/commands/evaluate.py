"""The command `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from evaluation import Format

app = typer.Typer(add_completion=False)

PRESETS = "rotation-flip, san-pgd, pgd-20, pgd-100, standard, curve, steps, angles, spatial, corruptions, demo"
"""For the help, which does not wait for the modules that know them."""


@app.command()
def evaluate(
    model: Annotated[list[str], typer.Argument(help="Names of checkpoints; see `withstand models`.")],
    dataset: Annotated[str, typer.Option(help=DATASET)],
    images: Annotated[
        int | None, typer.Option(help="How many images, drawn evenly from the classes.", show_default="all")
    ] = None,
    preset: Annotated[
        list[str],
        typer.Option(help=f"Conditions by name, may be given again: {PRESETS}."),
    ] = ["rotation-flip"],
    eps: Annotated[
        str | None,
        typer.Option(help="Radius for presets that attack, such as 4/255.", show_default="the preset's own"),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Norm of that radius: Linf, L2, L1 or L0.", show_default="Linf")
    ] = None,
    class_map: ClassMap = None,
    logits: Annotated[
        str, typer.Option(help="Among which classes a model chooses: all of its own, or only those of the dataset.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of all random draws but the selection.")] = 0,
    selection_seed: Annotated[int, typer.Option(help="Seed of the selection of images.")] = 0,
    precision: Annotated[
        str, typer.Option(help="In which attacks look: float32, tf32 (on a GPU) or bfloat16; the verdict is float32's.")
    ] = "float32",
    on_broken: Annotated[
        str, typer.Option(help="What to do about broken pictures: fail, or skip them and report which.")
    ] = "fail",
    stop_width: Annotated[
        float | None,
        typer.Option(
            help="End a condition early once its score's 95 % interval is as narrow, as a fraction.",
            show_default="never",
        ),
    ] = None,
    out: Annotated[
        list[Path],
        typer.Option(
            help="File to write the report to, by its ending, such as .html or .tex; any other ending lists all.",
            show_default="none",
        ),
    ] = [],
    min_score: Annotated[
        list[str],
        typer.Option(
            "--min",
            help="CONDITION=VALUE, such as clean=0.9 or 'pgd*=0.4', may be given again: fail if a score under a condition that "
            "fits is lower, as a fraction, or cannot be trusted.",
            show_default="none",
        ),
    ] = [],
    junit: Annotated[
        Path | None, typer.Option(help="JUnit file to write for a build server.", show_default="none")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate how long it would take.", show_default="off")
    ] = False,
    intervals: Intervals = False,
    data_dir: DataDir = None,
    device: Device = "",
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    as_json: Json = False,
) -> None:
    """Evaluate checkpoints here and now, without a server. Ends with status 1 if a result lies below the bar.

    Interrupted, it goes on from what is finished when it is run again.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    import evaluation
    from attacks import ThreatModel
    from cli.display import console, describe_estimate, print_report
    from evaluation import EvaluationSpec, ShardResult
    from evaluation.data.classes import read_class_map
    from evaluation.reports.bars import below_bar, parse_bar, to_junit

    forms = {path: _form(path) for path in out}
    if norm is not None and eps is None:
        raise ValueError(f"--norm {norm} needs --eps: radii of different norms are not alike")
    budget: dict[str, Any] = {"norm": norm or "Linf", "eps": eps}
    conditions = evaluation.conditions_of(preset, None if eps is None else ThreatModel(**budget))
    settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
    catalog, dataset = settings.catalog().with_dataset(dataset)
    spec = EvaluationSpec.model_validate(
        {
            "models": model,
            "dataset": dataset,
            "class_map": None if class_map is None else read_class_map(class_map),
            "logits": logits,
            "images": images,
            "conditions": conditions,
            "precision": precision,
            "on_broken": on_broken,
            "stop_width": stop_width,
            "seed": seed,
            "selection_seed": selection_seed,
        }
    )
    bars = [parse_bar(each, spec) for each in min_score]
    kept = evaluation.ResultFolder(settings.data_dir / "results")
    if dry_run:
        plan = evaluation.make_plan(spec, catalog, device=usable(device))
        done = [result for shard in plan.shards if (result := kept.computed(plan, shard))]
        expected = evaluation.estimate(plan, catalog, usable(device), done)
        typer.echo(expected.model_dump_json(indent=2) if as_json else describe_estimate(expected))
        return
    results: list[ShardResult] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)

        def on_shard(result: ShardResult, done: int, total: int) -> None:
            results.append(result)
            title = spec.conditions[result.shard.condition].title
            progress.update(task, description=f"{result.shard.model}, {title}")

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        def on_look(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description="decoding")

        report = evaluation.evaluate(
            spec,
            catalog=catalog,
            device=usable(device),
            results=kept,
            on_shard=on_shard,
            on_progress=on_progress,
            on_look=on_look,
        )
    files = catalog.open_dataset(dataset).files
    for path, form in forms.items():
        path.write_bytes(form.to_bytes(report, lambda: evaluation.image_rows(report.plan, results, files)))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report, console(), intervals=intervals)
    failures = below_bar(report, bars)
    if junit:
        junit.write_text(to_junit(report, failures))
    if failures:
        end("below the bar: " + "; ".join(failures), FAILURE)


def _form(path: Path) -> "Format":
    from service.http.formats import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: the ending says how to write the report, use {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    return SUFFIXES[path.suffix]
