"""The command `explain`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    ApiKeyFile,
    DataDir,
    Device,
    Json,
    ModelDir,
    Server,
    connect,
    read_picture,
    require_here,
    settings_of,
    usable,
)
from common import printable

if TYPE_CHECKING:
    from models import Classifier, Place
    from service.serving.pictures.explainer import Explanation
    from withstand import Client

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
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    device: Device = "",
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Draw which places in a picture a model's attention weights most."""
    from service.serving.pictures.explainer import parse_point

    require_here(server, device=device, model_dir=model_dir)
    place = None if query is None else parse_point(query)
    if server is None:
        classifier = settings_of(data_dir=data_dir, model_dir=model_dir).catalog().load_model(model, usable(device))
        drawing, found = _explained(classifier, model, image, layer, place)
    else:
        with connect(server, api_key_file) as client:
            drawing, found = _asked(client, model, image, layer, place)
    out.write_bytes(drawing)
    if as_json:
        typer.echo(found.model_dump_json(indent=2, exclude={"overlays"}))
    else:
        typer.echo(f"{found.file}: {found.top.label} {found.top.probability:.3f}; {out}: {found.facts}")


def _explained(
    classifier: "Classifier", model: str, image: Path, layer: str | None, query: "Place | None"
) -> "tuple[bytes, Explanation]":
    """Explain a picture here; gives the drawing and its numbers."""
    from service.serving.pictures.explainer import explain as explain_image

    file = printable(str(image))
    found = explain_image(classifier, read_picture(classifier, image), model=model, file=file, layer=layer, query=query)
    return found.as_png(), found.as_json()


def _asked(
    client: "Client", model: str, image: Path, layer: str | None, query: "Place | None"
) -> "tuple[bytes, Explanation]":
    """Let a service explain a picture; gives the drawing and its numbers."""
    from service.serving.pictures.explainer import Explanation

    drawing = client.explain_png(model, image, layer=layer, query=query)
    found = Explanation.model_validate(client.explain(model, image, layer=layer, query=query))
    return drawing, found.model_copy(update={"file": printable(str(image))})
