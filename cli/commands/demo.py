"""The command `demo`."""

from typing import Annotated

import typer

from cli.options import DataDir, Intervals, Json, settings_of

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    detach: Annotated[bool, typer.Option(help="Exit after the report instead of serving until Ctrl-C.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; a free one if it is taken.", show_default="8000")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to evaluate each model on.")] = 100,
    intervals: Intervals = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start the service, evaluate the zoo over HTTP, and print the report. The zoo is the checkpoints that come with withstand."""
    from cli import demo as demonstration

    settings = settings_of(data_dir=data_dir, port=port)
    demonstration.run(settings, detach=detach, images=images, intervals=intervals, as_json=as_json)
