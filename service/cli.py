"""The command `withstand`."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down every neighbour

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import attacks
import evaluation
import models
from attacks import ThreatModel
from common.pictures import PictureError, open_picture
from evaluation import Catalog, EvaluationSpec, ShardResult, writers
from evaluation.classes import read_class_map
from service import dataset_commands, server
from service import demo as demonstration
from service.card_fields import read_card_fields
from service.client import Client, ClientError
from service.deployments import version_of
from service.display import console, describe_added, describe_estimate, print_questions, print_report
from service.errors import field_errors
from service.explain import explain as explain_image
from service.explain import parse_place
from service.formats import SUFFIXES, ReportFormat, write
from service.schemas import AddedModel, OpenQuestions, Prediction, Predictions, QuestionView, top_classes
from service.settings import Settings

BAD_REQUEST, FAILURE = 2, 1

app = typer.Typer(
    help="How well do image classifiers withstand rotation, flips and adversarial attacks?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the database and of added models.", show_default=".withstand")
    ] = None,
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer HTTP on the port, each with its models.", show_default="1")
    ] = None,
) -> None:
    """Serve predictions and evaluations over HTTP; every setting can also be given as WITHSTAND_... in the environment."""
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "model_dirs": model_dir or None,
        "dataset_dirs": dataset_dir or None,
        "workers": workers,
    }
    server.run(Settings(**{name: value for name, value in given.items() if value is not None}))


@app.command()
def evaluate(
    model: Annotated[list[str], typer.Argument(help="Names of checkpoints; see `withstand models`.")],
    dataset: Annotated[str, typer.Option(help="Name of the data set, or path of a folder, .zip or .tar.")],
    images: Annotated[
        int | None, typer.Option(help="How many images, drawn evenly from the classes.", show_default="all")
    ] = None,
    preset: Annotated[
        list[str],
        typer.Option(help="Conditions by name, may be given again: " + ", ".join(evaluation.preset_names()) + "."),
    ] = ["rotation-flip"],
    eps: Annotated[
        str | None,
        typer.Option(help="Radius for presets that attack, such as 4/255.", show_default="the preset's own"),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Norm of that radius: Linf, L2, L1 or L0.", show_default="Linf")
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the model's class, by name or index, for every class of the data set.",
            show_default="found by name, WordNet id or index",
        ),
    ] = None,
    logits: Annotated[
        str, typer.Option(help="Among which classes a model chooses: all of its own, or only those of the dataset.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of all random draws but the selection.")] = 0,
    selection_seed: Annotated[int, typer.Option(help="Seed of the selection of images.")] = 0,
    precision: Annotated[
        str, typer.Option(help="In which attacks look, float32 or bfloat16; the verdict is float32's.")
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
        typer.Option(help=f"File to write the report to, by its ending: {', '.join(SUFFIXES)}.", show_default="none"),
    ] = [],
    min_accuracy: Annotated[
        float | None, typer.Option(help="Fail if any accuracy is lower, as a fraction.", show_default="none")
    ] = None,
    min_robust: Annotated[
        float | None,
        typer.Option(help="Fail if any robust accuracy is lower, or cannot be trusted.", show_default="none"),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="JUnit file to write for a build server.", show_default="none")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate how long it would take.", show_default="off")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Folder in which finished work is kept; what is there is not computed again.")
    ] = Path(".withstand"),
    device: Device = "",
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    as_json: Json = False,
) -> None:
    """Evaluate checkpoints here and now, without a server. Ends with status 1 if a result lies below the bar.

    Interrupted, it goes on from what is finished when it is run again.
    """
    forms = {path: _form(path) for path in out}
    if norm is not None and eps is None:
        raise ValueError(f"--norm {norm} needs --eps: radii of different norms are not alike")
    budget: dict[str, Any] = {"norm": norm or "Linf", "eps": eps}
    conditions = evaluation.conditions_of(preset, None if eps is None else ThreatModel(**budget))
    catalog, dataset = _catalog(model_dir, dataset_dir, data_dir).with_dataset(dataset)
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
    if min_robust is not None and not spec.attacking:
        raise ValueError("--min-robust needs a preset that attacks, such as pgd-20 or standard")
    kept = evaluation.ResultFolder(data_dir / "results")
    if dry_run:
        plan = evaluation.make_plan(spec, catalog)
        done = [result for shard in plan.shards if (result := kept.computed(plan, shard))]
        expected = evaluation.estimate(plan, catalog, _usable(device), done)
        typer.echo(expected.model_dump_json(indent=2) if as_json else describe_estimate(expected))
        return
    results: list[ShardResult] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)

        def on_shard(result: ShardResult, done: int, total: int) -> None:
            results.append(result)
            title = spec.conditions[result.shard.condition].title
            progress.update(task, completed=done, total=total, description=f"{result.shard.model}, {title}")

        def on_look(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description="looking for broken pictures")

        report = evaluation.evaluate(
            spec, catalog=catalog, device=_usable(device), kept=kept, on_shard=on_shard, on_look=on_look
        )
    files = catalog.open_dataset(dataset).files
    for path, form in forms.items():
        path.write_bytes(write(report, form, lambda: writers.image_rows(report.plan, results, files)))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report, console())
    failures = writers.below_bar(report, min_accuracy, min_robust)
    if junit:
        junit.write_text(writers.to_junit(report, failures))
    if failures:
        _end("below the bar: " + "; ".join(failures), FAILURE)


def _form(path: Path) -> ReportFormat:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: the ending says how to write the report, use {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    return SUFFIXES[path.suffix]


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint; see `withstand models`.")],
    image: Annotated[list[Path], typer.Argument(help="Picture files.")],
    top_k: Annotated[int, typer.Option(min=1, help="Classes to name for each picture.")] = 5,
    device: Device = "",
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Classify pictures here and now, without a server."""
    classifier = _catalog(model_dir, []).load_model(model, _usable(device))
    predictions = [_predict(classifier, path, top_k) for path in image]
    if as_json:
        typer.echo(
            Predictions(model=model, version=version_of(model), predictions=predictions).model_dump_json(indent=2)
        )
        return
    for prediction in predictions:
        scores = ", ".join(f"{each.label} {each.probability:.3f}" for each in prediction.top)
        typer.echo(f"{prediction.file}: {scores}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint with attention; see `withstand models`.")],
    image: Annotated[Path, typer.Argument(help="Picture file.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    layer: Annotated[
        str | None, typer.Option(help="Path of an attention layer in the network.", show_default="the last one")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help="Whose attention: y,x as fractions of the cropped picture.", show_default="of all places"),
    ] = None,
    device: Device = "",
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Draw what a model's attention weighs in a picture."""
    classifier = _catalog(model_dir, []).load_model(model, _usable(device))
    place = None if query is None else parse_place(query)
    found = explain_image(classifier, _read(classifier, image), model=model, file=str(image), layer=layer, query=place)
    out.write_bytes(found.as_png())
    if as_json:
        typer.echo(found.as_json().model_dump_json(indent=2, exclude={"overlays"}))
    else:
        typer.echo(f"{image}: {found.top.label} {found.top.probability:.3f}; {out}: {found.facts}")


models_app = typer.Typer(invoke_without_command=True, add_completion=False)
app.add_typer(models_app, name="models")
app.add_typer(dataset_commands.app, name="datasets")


@models_app.callback()
def list_models(context: typer.Context, model_dir: ModelDir = [], as_json: Json = False) -> None:
    """List the checkpoints that can be evaluated, and the architectures that can be created; or add a checkpoint."""
    if context.invoked_subcommand:
        return
    cards = {name: checkpoint.card() for name, checkpoint in _catalog(model_dir, []).checkpoints().items()}
    if as_json:
        body = {
            "checkpoints": {name: card.model_dump(mode="json") for name, card in cards.items()},
            "architectures": models.names(),
            "attacks": attacks.attack_names(),
        }
        typer.echo(json.dumps(body, indent=2))
        return
    for name, card in cards.items():
        accuracy = (
            "no claim"
            if card.clean_accuracy is None
            else f"{100 * card.clean_accuracy:.1f} % on {card.clean_accuracy_on}"
        )
        typer.echo(f"{name}: {card.architecture}, {len(card.classes)} classes, {accuracy}")
    typer.echo(f"\narchitectures: {', '.join(models.names())}")


@models_app.command("add")
def add_model(
    file: Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, .pth, .pt or .pt2.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model.", show_default="the file's, less its ending")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="JSON file with known fields of its card.", show_default="none")
    ] = None,
    set_field: Annotated[
        list[str],
        typer.Option(
            "--set", help="A field of its card, such as classes=cat,dog or preprocessing.crop=32.", show_default="none"
        ),
    ] = [],
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the likely answers to open questions.", show_default="off")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Address of a running service to send it to.", show_default="the data folder here"),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="API key of that service.", envvar="WITHSTAND_API_KEY", show_default="none"),
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Folder of the service's data; models are put below it.")] = Path(
        ".withstand"
    ),
    as_json: Json = False,
) -> None:
    """Add a checkpoint: recognised by its tensors, asked about where they do not tell enough, tried once, kept with its card."""
    given = read_card_fields(card, set_field)
    try:
        if url is None:
            catalog = Settings(data_dir=data_dir).catalog()
            added = AddedModel.of(catalog.add_model(file, name or file.stem, given, accept_likely=yes))
        else:
            with Client(url, api_key=api_key) as client:
                added = AddedModel.model_validate(client.add_model(file, name=name, card=given, accept_likely=yes))
    except models.QuestionsError as error:
        questions = [QuestionView.of(each) for each in error.draft.questions]
        _ask(OpenQuestions(questions=questions, card=error.draft.card), as_json=as_json)
    except ClientError as error:
        if "questions" not in error.problem:
            raise
        _ask(OpenQuestions.model_validate(error.problem), as_json=as_json)
    else:
        typer.echo(added.model_dump_json(indent=2) if as_json else describe_added(added))


def _ask(asked: OpenQuestions, *, as_json: bool) -> NoReturn:
    """Print what is not known, and end as after a bad request."""
    if as_json:
        typer.echo(asked.model_dump_json(indent=2))
    else:
        print_questions(asked, console(stderr=True))
    _end("answer with --set FIELD=VALUE or --card FILE, or accept what is likely with --yes", BAD_REQUEST)


@app.command()
def demo(
    detach: Annotated[bool, typer.Option(help="End by itself instead of serving until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port to listen on; if it is taken, a free one.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder of the database.")] = Path(".withstand"),
) -> None:
    """Start the service, evaluate the zoo through HTTP, print the report and where to look next."""
    demonstration.run(detach=detach, port=port, data_dir=data_dir)


def _catalog(model_dirs: list[Path], dataset_dirs: list[Path], data_dir: Path = Path(".withstand")) -> Catalog:
    return Settings(model_dirs=tuple(model_dirs), dataset_dirs=tuple(dataset_dirs), data_dir=data_dir).catalog()


def _usable(device: str) -> str:
    try:
        torch.empty(0, device=device or None)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"nothing can be computed on the device {device!r}: {reason}") from error
    return device or evaluation.best_device()


def _predict(classifier: models.Classifier, path: Path, top_k: int) -> Prediction:
    image = _read(classifier, path).to(classifier.device)
    return Prediction(
        file=str(path), top=top_classes(classifier(image.unsqueeze(0))[0], classifier.card.classes, top_k)
    )


def _read(classifier: models.Classifier, path: Path) -> torch.Tensor:
    try:
        return classifier.card.preprocessing(open_picture(path.read_bytes()))
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error


def main() -> None:
    """Run the command; a bad request ends with status 2, a failure with 1, both with one line on standard error."""
    try:
        app()
    except ValidationError as error:
        _end("; ".join(map(str, field_errors(error.errors()))), BAD_REQUEST)
    except (ValueError, OSError) as error:
        _end(str(error), BAD_REQUEST)
    except ClientError as error:
        refused = 400 <= error.problem.get("status", 500) < 500
        _end(str(error), BAD_REQUEST if refused else FAILURE)


def _end(message: str, status: int) -> NoReturn:
    typer.echo(f"withstand: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
