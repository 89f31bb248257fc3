"""The command `serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service import server
from service.commands.options import DatasetDir, ModelDir
from service.settings import Settings

app = typer.Typer(add_completion=False)


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
    """Serve predictions and evaluations over HTTP. Every setting can also be given as WITHSTAND_... in the environment."""
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "model_dirs": model_dir or None,
        "dataset_dirs": dataset_dir or None,
        "workers": workers,
    }
    server.run(Settings(**{name: value for name, value in given.items() if value is not None}))
