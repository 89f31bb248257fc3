"""The command `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DataDir, DatasetDir, ModelDir, settings_of
from service import DATA_DIR, DATABASE

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 chooses a free one.", show_default="8000")
    ] = None,
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    dataset_dir: DatasetDir = [],
    workers: Annotated[
        str | None,
        typer.Option(
            help="Number of processes that answer HTTP on the port; each loads its own models. auto is one, "
            "and with a GPU one for every 3 cores.",
            show_default="auto",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the log as JSON, one object on each line.", show_default="off")
    ] = False,
) -> None:
    """Serve predictions and evaluations over HTTP. Every setting can also be given as an environment variable WITHSTAND_..."""
    from service.jobs.fork_server import has_unfinished, start_fork_server

    if has_unfinished((data_dir or Path(DATA_DIR)) / DATABASE):
        start_fork_server()  # it imports at the same time as this process
    from service import server
    from service.preflight import require_startable

    settings = settings_of(
        data_dir=data_dir,
        model_dir=model_dir,
        dataset_dir=dataset_dir,
        host=host,
        port=port,
        workers=workers,
        log_format="json" if as_json else None,
    )
    require_startable(settings)
    server.run(settings)
