"""The command `zoo`."""

import json
from typing import TYPE_CHECKING, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from models import Checkpoint

app = typer.Typer(add_completion=False)


@app.command()
def zoo(as_json: Json = False) -> None:
    """List the checkpoints that come with withstand, which `demo` evaluates. Each has its accuracy, size and licence."""
    import models

    found = [_facts(name, checkpoint) for name, checkpoint in models.find_checkpoints().items()]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)


def _facts(name: str, checkpoint: "Checkpoint") -> dict[str, Any]:
    card = checkpoint.card()
    return {
        "name": name,
        "architecture": card.architecture,
        "clean_accuracy": card.clean_accuracy,
        "clean_accuracy_on": card.clean_accuracy_on,
        "size_bytes": checkpoint.path.stat().st_size,
        "licence": card.licence,
    }


def _print(found: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from cli import demo
    from cli.display import console
    from cli.score_table import shared_part

    shared = shared_part([each["name"] for each in found])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("model", "architecture", "accuracy", "size"):
        table.add_column(heading, justify="right" if heading in {"accuracy", "size"} else "left", overflow="fold")
    for each in found:
        table.add_row(
            each["name"].replace(shared, "", 1),
            each["architecture"],
            f"{100 * each['clean_accuracy']:.1f} %",
            f"{each['size_bytes'] / 1e6:.1f} MB",
        )
    out = console()
    if shared:
        out.print(f"Model names are printed without {shared}\n")
    out.print(table)
    for licence in dict.fromkeys(each["licence"] for each in found):
        names = [each["name"].replace(shared, "", 1) for each in found if each["licence"] == licence]
        out.print(f"\nLicence of {'all' if len(names) == len(found) else ', '.join(names)}: {licence}")
    out.print(f"\n`withstand demo` evaluates them on {demo.DATASET}.")
