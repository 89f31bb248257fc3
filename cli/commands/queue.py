"""The commands about the queue of a service: `withstand queue`, `withstand queue pause`, `withstand queue resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from cli.commands.options import ApiKey, DataDir, Json, Url, stored

if TYPE_CHECKING:
    from service.http.routes.queue import QueueView

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def show_queue(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what runs and what waits, or pause and resume all of it."""
    if not context.invoked_subcommand:
        _print(_asked(None, url, api_key, data_dir), as_json=as_json)


@app.command("pause")
def pause_queue(url: Url = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start no more shards of any evaluation until the queue is resumed. Running shards are finished."""
    _print(_asked("pause", url, api_key, data_dir), as_json=as_json)


@app.command("resume")
def resume_queue(url: Url = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start shards again, except those of evaluations that are paused themselves."""
    _print(_asked("resume", url, api_key, data_dir), as_json=as_json)


def _asked(
    action: Literal["pause", "resume"] | None, url: str | None, api_key: str | None, data_dir: Path | None
) -> "QueueView":
    """Do something to the queue of a service, or of the database of a folder, and read it."""
    from cli.client import Client
    from service.http.routes.queue import QueueView, describe_queue
    from service.jobs.queue import Queue

    if url is None:
        with stored(data_dir) as store:
            queue = Queue(store)
            if action == "pause":
                queue.pause()
            elif action == "resume":
                queue.resume()
            return describe_queue(queue)
    with Client(url, api_key=api_key) as client:
        return QueueView.model_validate(client.queue() if action is None else client.control_queue(action))


def _print(found: "QueueView", *, as_json: bool) -> None:
    from cli.display import console
    from cli.queue_tables import print_queue

    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_queue(found, console())
