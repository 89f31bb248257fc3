"""The commands about evaluations of a service: `withstand evaluations`, `withstand evaluations rm`."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.options import ApiKey, DataDir, Json, Url, settings_of

if TYPE_CHECKING:
    from service.jobs.store import Store

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def list_evaluations(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the evaluations of a service, newest first, or remove one."""
    if context.invoked_subcommand:
        return
    from cli.client import Client
    from service.http.schemas import EvaluationView
    from service.jobs.evaluations import Damaged, Evaluation

    if url is None:
        with _stored(data_dir) as store:
            found = store.evaluations()
        views = [EvaluationView.of(each, root="") for each in found if isinstance(each, Evaluation)]
        for each in found:
            if isinstance(each, Damaged):
                typer.echo(f"{each.id}: {each.problem}", err=True)
    else:
        with Client(url, api_key=api_key) as client:
            views = [EvaluationView.model_validate(each) for each in client.evaluations()]
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json", exclude={"report"}) for each in views], indent=2))
        return
    for each in views:
        done = f"{each.progress.images_done} of {each.progress.images_total} rows"
        what = f"{', '.join(each.spec.models)} on {each.spec.dataset}"
        typer.echo(f"{each.id}: {each.status}, {done}, {what}, {each.created_at:%Y-%m-%d %H:%M} UTC")


@app.command("rm")
def remove_evaluation(
    evaluation_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a finished evaluation; `withstand evaluations` lists them.")
    ],
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Remove an evaluation and its results for good. Results that another evaluation shares are not removed."""
    from cli.client import Client
    from service.jobs import removal

    if url is None:
        with _stored(data_dir) as store:
            removal.remove_evaluation(evaluation_id, store)
    else:
        with Client(url, api_key=api_key) as client:
            client.remove_evaluation(evaluation_id)
    typer.echo(f"removed {evaluation_id}")


@contextmanager
def _stored(data_dir: Path | None) -> "Generator[Store]":
    from service.jobs.store import Store

    database = settings_of(data_dir=data_dir).database
    if isinstance(database, Path) and not database.is_file():
        raise ValueError(
            f"no service has stored anything in {database.parent}: give its folder with --data-dir, or its address with --url"
        )
    store = Store.at(database)
    try:
        yield store
    finally:
        store.close()
