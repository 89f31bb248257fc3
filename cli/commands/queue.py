"""The commands about the queue of a service: `withstand queue`, `withstand queue pause`, `withstand queue resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from cli.options import ApiKeyFile, DataDir, Json, Server, connect, stored

if TYPE_CHECKING:
    from service.http.routes.queue import QueueView

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def show_queue(
    context: typer.Context,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what runs and what waits, or pause and resume all of it."""
    if not context.invoked_subcommand:
        _print(_asked(None, server, api_key_file, data_dir), as_json=as_json)


@app.command("pause")
def pause_queue(
    server: Server = None, api_key_file: ApiKeyFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Start no more shards of any evaluation until the queue is resumed. Running shards are finished."""
    _print(_asked("pause", server, api_key_file, data_dir), as_json=as_json)


@app.command("resume")
def resume_queue(
    server: Server = None, api_key_file: ApiKeyFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Start shards again, except those of evaluations that are paused themselves."""
    _print(_asked("resume", server, api_key_file, data_dir), as_json=as_json)


def _asked(
    action: Literal["pause", "resume"] | None, server: str | None, api_key_file: Path | None, data_dir: Path | None
) -> "QueueView":
    """Do something to the queue of a service, or of the database of a folder, and read it."""
    from service.http.routes.queue import QueueView, describe_queue
    from service.jobs.queue import Queue

    if server is None:
        with stored(data_dir) as store:
            queue = Queue(store)
            if action == "pause":
                queue.pause()
            elif action == "resume":
                queue.resume()
            return describe_queue(queue)
    with connect(server, api_key_file) as client:
        return QueueView.model_validate(client.queue() if action is None else client.control_queue(action))


def _print(found: "QueueView", *, as_json: bool) -> None:
    from cli.display import console
    from cli.queue_tables import print_queue

    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_queue(found, console())
