"""The command `presets`."""

import typer

from cli.commands.options import Json

app = typer.Typer(add_completion=False)


@app.command()
def presets(as_json: Json = False) -> None:
    """List the sets of conditions that `evaluate --preset` takes. Each is listed with what it does and its source."""
    from pydantic import TypeAdapter

    from evaluation import Preset, list_presets

    found = list_presets()
    if as_json:
        typer.echo(TypeAdapter(list[Preset]).dump_json(found, indent=2))
        return
    for each in found:
        typer.echo(f"{each.name}: {each.explanation} Source: {each.source}.")
