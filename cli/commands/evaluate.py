"""The command `evaluate`."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.exit_codes import FAILURE, end
from cli.options import (
    DATASET,
    ApiKeyFile,
    ClassMap,
    DataDir,
    DatasetDir,
    Device,
    Intervals,
    Json,
    ModelDir,
    Server,
    connect,
    format_of,
    require_here,
    settings_of,
    usable,
)

if TYPE_CHECKING:
    from cli.workplaces import Here, Workplace
    from evaluation import Condition, Estimate, Format, Report
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
Randomised = Annotated[
    str,
    typer.Option(
        help="Whether passes of one image through a model differ: as its card says or two passes show (found), yes, or no."
    ),
]
EotPasses = Annotated[int, typer.Option(help="Number of passes whose mean attacks on a randomised model see.")]
JudgedPasses = Annotated[
    int, typer.Option(help="Number of passes by which each image of a randomised model is judged.")
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
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Ask --min of the lower end of each 95 % interval, and that every model is graded reliable.",
        show_default="off",
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
    randomised: Randomised = "found",
    eot_passes: EotPasses = 20,
    judged_passes: JudgedPasses = 10,
    on_broken: OnBroken = "fail",
    stop_width: StopWidth = None,
    out: Out = [],
    min_score: MinScore = [],
    strict: Strict = False,
    junit: Junit = None,
    dry_run: DryRun = False,
    slurm: Slurm = None,
    slurm_set: SlurmSet = [],
    intervals: Intervals = False,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    device: Device = "",
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    as_json: Json = False,
) -> None:
    """Evaluate checkpoints, here and now or at a service. Exits with status 1 if a score is below --min.

    If it is interrupted here, run it again: it continues from the finished results. At a service the evaluation goes on.
    """
    from cli.workplaces import Here
    from evaluation import EvaluationSpec
    from evaluation.reports.bars import parse_bar

    formats = {path: format_of(path) for path in out}
    require_here(server, device=device, model_dir=model_dir, dataset_dir=dataset_dir, slurm=slurm, slurm_set=slurm_set)
    settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
    catalog, name = (settings.catalog(), dataset) if server else settings.catalog().with_dataset(dataset)
    fields = {
        "models": model,
        "dataset": name,
        "class_map": _class_map(class_map),
        "logits": logits,
        "images": images,
        "conditions": _conditions(preset, eps, norm),
        "precision": precision,
        "randomised": _randomised(randomised),
        "eot_passes": eot_passes,
        "judged_passes": judged_passes,
        "on_broken": on_broken,
        "stop_width": stop_width,
        "seed": seed,
        "selection_seed": selection_seed,
    }
    spec = EvaluationSpec.model_validate(fields)
    bars = [parse_bar(each, spec) for each in min_score]
    local = Here(spec, catalog, device, settings.data_dir)
    with _workplace(local, (server, api_key_file), None if dry_run else slurm, slurm_set) as work:
        if dry_run:
            _print_estimate(work.estimate(), as_json=as_json)
            return
        report = _run(work, formats)
    _print(report, intervals=intervals, as_json=as_json)
    _check_bars(report, bars, junit, strict=strict)


def _run(work: "Workplace", formats: "dict[Path, Format]") -> "Report":
    report, write = work.run()
    for path, form in formats.items():
        path.write_bytes(write(form))
    return report


@contextmanager
def _workplace(
    local: "Here", service: tuple[str | None, Path | None], slurm: int | None, slurm_set: list[str]
) -> "Generator[Workplace]":
    """Choose where an evaluation is computed."""
    from cli.workplaces import AtService, OnSlurm

    server, api_key_file = service
    if server is not None:
        with connect(server, api_key_file) as client:
            yield AtService(local.spec, client)
    elif slurm:
        yield OnSlurm(**vars(local), jobs=slurm, options=slurm_set)
    else:
        yield replace(local, device=usable(local.device))


def _randomised(text: str) -> bool | None:
    meanings = {"found": None, "yes": True, "no": False}
    if text not in meanings:
        raise ValueError(f"--randomised must be found, yes or no, got {text!r}")
    return meanings[text]


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


def _print_estimate(expected: "Estimate", *, as_json: bool) -> None:
    from cli.display import describe_estimate

    typer.echo(expected.model_dump_json(indent=2) if as_json else describe_estimate(expected))


def _print(report: "Report", *, intervals: bool, as_json: bool) -> None:
    from cli.display import console, print_report

    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report, console(), intervals=intervals)


def _check_bars(report: "Report", bars: "list[Bar]", junit: Path | None, *, strict: bool) -> None:
    from evaluation.reports.bars import below_bar, to_junit

    failures = below_bar(report, bars, strict=strict)
    if junit:
        junit.write_text(to_junit(report, failures))
    if failures:
        end("below --min: " + "; ".join(failures), FAILURE)
