"""The commands about models: `withstand models`, `withstand models add`, `withstand models rm`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli.exit_codes import BAD_REQUEST, end
from cli.options import ApiKeyFile, DataDir, Json, ModelDir, Server, connect, require_here, settings_of

if TYPE_CHECKING:
    from service.http.schemas import OpenQuestions

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def list_models(
    context: typer.Context,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """List the checkpoints and architectures; add or remove a checkpoint."""
    if context.invoked_subcommand:
        return
    require_here(server, model_dir=model_dir)
    body = _models_here(data_dir, model_dir) if server is None else _models_there(server, api_key_file)
    if as_json:
        typer.echo(json.dumps(body, indent=2))
        return
    for name, card in body["checkpoints"].items():
        accuracy = (
            "no claimed accuracy"
            if card["clean_accuracy"] is None
            else f"{100 * card['clean_accuracy']:.1f} % on {card['clean_accuracy_on']}"
        )
        typer.echo(f"{name}: {card['architecture']}, {len(card['classes'])} classes, {accuracy}")
    for name, problem in body["problems"].items():
        typer.echo(f"{name}: cannot be used: {problem}")
    typer.echo(f"\narchitectures: {', '.join(body['architectures'])}")


def _models_here(data_dir: Path | None, model_dir: list[Path]) -> dict[str, Any]:
    import attacks
    import models

    cards: dict[str, models.ModelCard] = {}
    problems: dict[str, str] = {}
    for name, checkpoint in settings_of(data_dir=data_dir, model_dir=model_dir).catalog().checkpoints().items():
        try:
            cards[name] = checkpoint.card()
        except models.CheckpointError as error:
            problems[name] = str(error)
    return {
        "checkpoints": {name: card.model_dump(mode="json") for name, card in cards.items()},
        "problems": problems,
        "architectures": models.names(),
        "attacks": attacks.attack_names(),
    }


def _models_there(server: str, api_key_file: Path | None) -> dict[str, Any]:
    with connect(server, api_key_file) as client:
        found, architectures, attacks = client.models(), client.architectures(), client.attacks()
    return {
        "checkpoints": {each["name"]: each for each in found if "problem" not in each},
        "problems": {each["name"]: each["problem"] for each in found if "problem" in each},
        "architectures": [each["name"] for each in architectures],
        "attacks": [each["name"] for each in attacks if each["kind"] != "transform"],
    }


@app.command("add")
def add_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint file (.safetensors, .pth, .pt, .bin, .ckpt or .pt2), or a folder from the Hugging Face hub with one."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name for the model.", show_default="name of the file without its ending, or of the folder"),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="JSON file with fields of the model's card.", show_default="none")
    ] = None,
    set_field: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="A field of the card, such as classes=cat,dog or preprocessing.crop=32; may be repeated.",
            show_default="none",
        ),
    ] = [],
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the likely answer to every open question.", show_default="off")
    ] = False,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add a checkpoint with its card. The architecture is recognised by the tensors.

    If they do not say enough, the open questions are printed; answer them with --set, --card or --yes.
    """
    import models
    from cli.card_fields import read_card_fields
    from cli.display import describe_added
    from service.http.schemas import AddedModel, OpenQuestions, QuestionView
    from withstand import ClientError

    given = read_card_fields(card, set_field)
    name = name or (file.resolve().name if file.is_dir() else file.stem)
    try:
        if server is None:
            catalog = settings_of(data_dir=data_dir).catalog()
            added = AddedModel.of(catalog.add_model(file, name, given, accept_likely=yes))
        else:
            with connect(server, api_key_file) as client:
                added = AddedModel.model_validate(
                    client.add_model(models.checkpoint_file(file), name=name, card=given, accept_likely=yes)
                )
    except models.QuestionsError as error:
        questions = [QuestionView.of(each) for each in error.draft.questions]
        _ask(OpenQuestions(questions=questions, card=error.draft.card), as_json=as_json)
    except ClientError as error:
        if "questions" not in error.problem:
            raise
        _ask(OpenQuestions.model_validate(error.problem), as_json=as_json)
    else:
        typer.echo(added.model_dump_json(indent=2) if as_json else describe_added(added))


@app.command("rm")
def remove_model(
    name: Annotated[str, typer.Argument(help="Name of an added model, such as mine or mine@2.")],
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove an added model, with its file and its card."""

    if server is None:
        _remove_here(name, data_dir)
    else:
        with connect(server, api_key_file) as client:
            client.remove_model(name)
    typer.echo(json.dumps({"removed": name}) if as_json else f"removed {name}")


def _remove_here(name: str, data_dir: Path | None) -> None:
    from service.jobs.queue import Queue
    from service.jobs.removal import requests as removal
    from service.jobs.store import Store

    settings = settings_of(data_dir=data_dir)
    catalog = settings.catalog()
    catalog.require_added(name)  # before a database is created
    store = Store.at(settings.database)
    try:
        removal.remove_model(name, catalog, Queue(store))
    finally:
        store.close()


def _ask(asked: "OpenQuestions", *, as_json: bool) -> NoReturn:
    """Print the open questions, and exit with the status of a bad request."""
    from cli.display import describe_questions

    if as_json:
        typer.echo(asked.model_dump_json(indent=2))
    else:
        typer.echo(describe_questions(asked), err=True)
    end("answer with --set FIELD=VALUE or --card FILE, or accept the likely answers with --yes", BAD_REQUEST)
