"""The command `check-claim`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.exit_codes import FAILURE, end
from cli.options import (
    DATASET,
    ApiKeyFile,
    DataDir,
    DatasetDir,
    Device,
    Json,
    ModelDir,
    Server,
    connect,
    require_here,
    settings_of,
    usable,
)

if TYPE_CHECKING:
    from evaluation.claimed import ClaimedScore
    from evaluation.reports.report import Report

app = typer.Typer(add_completion=False)

_IN_FILE = "those of --claims"


@app.command()
def check_claim(
    model: Annotated[str | None, typer.Option(help="Name of the checkpoint.", show_default=_IN_FILE)] = None,
    claimed: Annotated[
        float | None, typer.Option(help="The claimed score, a fraction such as 0.5342.", show_default=_IN_FILE)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET, show_default=_IN_FILE)] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            help="Budget of the attacks, as NORM:EPS such as Linf:8/255.", show_default="none: clean accuracy"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="The attacks: a preset with one score.", show_default="standard, AutoAttack's version"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="The claim still holds if the score is lower by less than this.", show_default="0.01"),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="With which the answer is right.", show_default="0.95")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to look at, at most.", show_default="all if need be")
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(help="JSON file with a list of claims, each an object with these options.", show_default="none"),
    ] = None,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    device: Device = "",
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    as_json: Json = False,
) -> None:
    """Check a claimed score with as few images as will do. Exits with status 1 unless every claim holds.

    Images are drawn at random until it is known, at the stated confidence, whether the score on the whole data set is as high as
    claimed, less the tolerance. If it is interrupted, run it again: it continues from the finished results.
    """
    from cli.workplaces import AtService, Here

    options: dict[str, Any] = {
        "model": model,
        "claimed": claimed,
        "dataset": dataset,
        "threat": threat,
        "preset": preset,
        "tolerance": tolerance,
        "confidence": confidence,
        "images": images,
    }
    every = _claims(claims, {name: value for name, value in options.items() if value is not None})
    require_here(server, device=device, model_dir=model_dir, dataset_dir=dataset_dir)
    settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
    if server is not None:
        with connect(server, api_key_file) as client:
            reports = [AtService(each.spec, client).run()[0] for each in every]
    else:
        here = usable(device)
        found = [(each, *settings.catalog().with_dataset(each.dataset)) for each in every]
        reports = [Here(each.on(name).spec, catalog, here, settings.data_dir).run()[0] for each, catalog, name in found]
    _print(reports, as_json=as_json)


def _claims(path: Path | None, given: dict[str, Any]) -> "list[ClaimedScore]":
    """Read one claim from the options, or several from a file."""
    from evaluation.claimed import CLAIMS, ClaimedScore

    if path is None:
        if missing := [f"--{name}" for name in ("model", "dataset") if name not in given]:
            raise ValueError(f"{' and '.join(missing)} must be given, or a file of claims with --claims")
        return [ClaimedScore.model_validate(given)]
    if given:
        raise ValueError(f"--claims describes every claim; leave out {', '.join(f'--{name}' for name in given)}")
    return CLAIMS.validate_json(path.read_bytes())


def _print(reports: "list[Report]", *, as_json: bool) -> None:
    from cli.display import console, describe_claim

    if as_json:
        typer.echo(json.dumps([_facts(each) for each in reports], indent=2))
    else:
        console().print("\n\n".join(map(describe_claim, reports)))
    verdicts = [each.models[0].claim for each in reports]
    if doubtful := sum(each is None or each.answer != "holds" for each in verdicts):
        end(f"{doubtful} of {len(verdicts)} claims cannot be said to hold", FAILURE)


def _facts(report: "Report") -> dict[str, Any]:
    (model,) = report.models
    return {
        "evaluation": report.plan.id,
        "model": model.model,
        "dataset": report.plan.spec.dataset,
        "condition": model.conditions[0].title,
        "grade": model.grade,
        "verdict": None if model.claim is None else model.claim.model_dump(mode="json"),
    }
