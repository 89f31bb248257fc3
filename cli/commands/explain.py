"""The command `explain`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import DataDir, Device, Json, ModelDir, read_picture, settings_of, usable
from common import printable

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    model: Annotated[
        str, typer.Argument(help="Name of a checkpoint that has attention; `withstand models` lists all.")
    ],
    image: Annotated[Path, typer.Argument(help="Picture file to explain.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    layer: Annotated[
        str | None,
        typer.Option(
            help="Attention layer, as its path in the network; a wrong one prints the list.",
            show_default="the last one",
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            help="Place whose attention is drawn: y,x as fractions of the cropped picture, from 0 to 1.",
            show_default="all places",
        ),
    ] = None,
    device: Device = "",
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Draw which places in a picture a model's attention weights most."""
    from service.serving.explainer import explain as explain_image
    from service.serving.explainer import parse_point

    classifier = settings_of(data_dir=data_dir, model_dir=model_dir).catalog().load_model(model, usable(device))
    place = None if query is None else parse_point(query)
    found = explain_image(
        classifier, read_picture(classifier, image), model=model, file=printable(str(image)), layer=layer, query=place
    )
    out.write_bytes(found.as_png())
    if as_json:
        typer.echo(found.as_json().model_dump_json(indent=2, exclude={"overlays"}))
    else:
        typer.echo(f"{found.file}: {found.top.label} {found.top.probability:.3f}; {out}: {found.facts}")
