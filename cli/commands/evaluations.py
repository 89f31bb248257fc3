"""The commands about evaluations of a service: `withstand evaluations`, and what changes one of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ApiKeyFile, DataDir, Id, Json, Server, connect, stored

if TYPE_CHECKING:
    from service.http.schemas import EvaluationView
    from service.jobs.queue import Queue
    from withstand import Client

app = typer.Typer(invoke_without_command=True, add_completion=False)

PriorityArgument = Annotated[str, typer.Argument(metavar="PRIORITY", help="low, normal or high.")]
MaxDevices = Annotated[
    int | None, typer.Option(help="Most devices that run it at the same time.", show_default="no limit")
]
MaxHours = Annotated[
    float | None, typer.Option(help="Most hours that devices work on it, summed over them.", show_default="no limit")
]


@app.callback()
def list_evaluations(
    context: typer.Context,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the evaluations of a service, newest first, or change one."""
    if context.invoked_subcommand:
        return
    from service.http.schemas import EvaluationView
    from service.jobs.evaluations import Damaged, Evaluation

    if server is None:
        with stored(data_dir) as store:
            found = store.evaluations()
        views = [EvaluationView.of(each, root="") for each in found if isinstance(each, Evaluation)]
        for each in found:
            if isinstance(each, Damaged):
                typer.echo(f"{each.id}: {each.problem}", err=True)
    else:
        with connect(server, api_key_file) as client:
            views = [EvaluationView.model_validate(each) for each in client.evaluations()]
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json", exclude={"report"}) for each in views], indent=2))
        return
    for each in views:
        typer.echo(_line(each))


@app.command("rm")
def remove_evaluation(
    evaluation_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a finished evaluation; `withstand evaluations` lists them.")
    ],
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove an evaluation and its results for good. Results that another evaluation shares are not removed."""
    from service.jobs.removal import requests as removal

    if server is None:
        with stored(data_dir) as store:
            removal.remove_evaluation(evaluation_id, store)
    else:
        with connect(server, api_key_file) as client:
            client.remove_evaluation(evaluation_id)
    typer.echo(json.dumps({"removed": evaluation_id}) if as_json else f"removed {evaluation_id}")


@app.command("pause")
def pause_evaluation(
    evaluation_id: Id,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start no more shards of an evaluation until it is resumed. Running shards are finished."""
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.control_evaluation(evaluation_id, "pause"),
        lambda queue: queue.pause_evaluation(evaluation_id),
        as_json=as_json,
    )


@app.command("resume")
def resume_evaluation(
    evaluation_id: Id,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start shards of a paused evaluation again."""
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.control_evaluation(evaluation_id, "resume"),
        lambda queue: queue.resume_evaluation(evaluation_id),
        as_json=as_json,
    )


@app.command("retry")
def retry_evaluation(
    evaluation_id: Id,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Try the failed shards of a failed evaluation again. Finished shards are not run again."""
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.control_evaluation(evaluation_id, "retry"),
        lambda queue: queue.retry(evaluation_id),
        as_json=as_json,
    )


@app.command("cancel")
def cancel_evaluation(
    evaluation_id: Id,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Drop what is not finished of an evaluation. What is finished stays, and submitting it again continues."""
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.cancel_evaluation(evaluation_id),
        lambda queue: queue.cancel(evaluation_id),
        as_json=as_json,
    )


@app.command("priority")
def prioritise_evaluation(
    evaluation_id: Id,
    priority: PriorityArgument,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change which evaluations get free devices first. Those of equal priority share them."""
    from service.jobs.evaluations import Priority

    if priority not in [*Priority]:
        raise ValueError(f"PRIORITY must be low, normal or high, got {priority!r}")
    wanted = Priority(priority)
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.prioritise_evaluation(evaluation_id, wanted.value),
        lambda queue: queue.prioritise(evaluation_id, wanted),
        as_json=as_json,
    )


@app.command("limit")
def limit_evaluation(
    evaluation_id: Id,
    max_devices: MaxDevices = None,
    max_hours: MaxHours = None,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change how many devices may run an evaluation, and for how long. A limit that is not given is lifted."""
    from service.http.schemas import LimitsRequest

    wanted = LimitsRequest(max_devices=max_devices, max_hours=max_hours)
    _change(
        evaluation_id,
        (server, api_key_file, data_dir),
        lambda client: client.limit_evaluation(evaluation_id, **wanted.model_dump()),
        lambda queue: queue.limit(evaluation_id, wanted.limits),
        as_json=as_json,
    )


def _change(
    evaluation_id: str,
    place: tuple[str | None, Path | None, Path | None],
    ask: "Callable[[Client], object]",
    write: "Callable[[Queue], None]",
    *,
    as_json: bool,
) -> None:
    """Ask the service at an address, or write into the database of a folder, and print the evaluation as it is then."""
    from service.http.schemas import EvaluationView
    from service.jobs.queue import Queue

    server, api_key_file, data_dir = place
    if server is None:
        with stored(data_dir) as store:
            write(Queue(store))
            found = store.evaluation(evaluation_id)
            view = None if found is None else EvaluationView.of(found, root="")
    else:
        with connect(server, api_key_file) as client:
            view = EvaluationView.model_validate(ask(client))
    if view is not None:  # else it was removed meanwhile
        typer.echo(view.model_dump_json(indent=2, exclude={"report"}) if as_json else _line(view))


def _line(view: "EvaluationView") -> str:
    done = f"{view.progress.images_done} of {view.progress.images_total} rows"
    what = f"{', '.join(view.spec.models)} on {view.spec.dataset}"
    return f"{view.id}: {view.status}, {done}, {what}, {view.created_at:%Y-%m-%d %H:%M} UTC"
