"""The command `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from service import demo as demonstration

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    detach: Annotated[bool, typer.Option(help="End by itself instead of serving until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port to listen on; if it is taken, a free one.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder of the database.")] = Path(".withstand"),
) -> None:
    """Start the service, evaluate the zoo through HTTP, print the report and where to look next."""
    demonstration.run(detach=detach, port=port, data_dir=data_dir)
