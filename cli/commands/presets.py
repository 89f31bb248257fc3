"""The command `presets`."""

import typer

from cli.options import ApiKeyFile, Json, Server, connect

app = typer.Typer(add_completion=False)


@app.command()
def presets(server: Server = None, api_key_file: ApiKeyFile = None, as_json: Json = False) -> None:
    """List the sets of conditions that `evaluate --preset` takes. Each is listed with what it does and its source."""
    from pydantic import TypeAdapter

    from evaluation import Preset, list_presets

    presets = TypeAdapter(list[Preset])
    if server is None:
        found = list_presets()
    else:
        with connect(server, api_key_file) as client:
            found = presets.validate_python(client.presets())
    if as_json:
        typer.echo(presets.dump_json(found, indent=2))
        return
    for each in found:
        typer.echo(f"{each.name}: {each.explanation} Source: {each.source}.")
