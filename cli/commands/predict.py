"""The command `predict`."""

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
    from models import Classifier
    from service.serving.predictions import Prediction, Predictions
    from withstand import Client

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint; `withstand models` lists them.")],
    image: Annotated[list[Path], typer.Argument(help="Picture files to classify.")],
    top_k: Annotated[
        int, typer.Option(min=1, help="Number of classes to print per picture, the most probable first.")
    ] = 5,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    device: Device = "",
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Classify pictures, here and now or at a service."""
    from service.serving.deployments import version_of
    from service.serving.predictions import Predictions

    require_here(server, device=device, model_dir=model_dir)
    if server is None:
        classifier = settings_of(data_dir=data_dir, model_dir=model_dir).catalog().load_model(model, usable(device))
        predictions = [_predict(classifier, path, top_k) for path in image]
        found = Predictions(model=model, version=version_of(model), predictions=predictions)
    else:
        with connect(server, api_key_file) as client:
            found = _ask(client, model, image, top_k)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    for prediction in found.predictions:
        scores = ", ".join(f"{each.label} {each.probability:.3f}" for each in prediction.top)
        typer.echo(f"{prediction.file}: {scores}")


def _ask(client: "Client", model: str, paths: list[Path], top_k: int) -> "Predictions":
    """Send one picture after the other, so that their number has no limit, and a broken one is an error as it is here."""
    from service.serving.predictions import Prediction, Predictions

    answers = [client.predict(model, path, top_k=top_k) for path in paths]
    tops = [answer["predictions"][0]["top"] for answer in answers]
    predictions = [
        Prediction.model_validate({"file": printable(str(path)), "top": top})
        for path, top in zip(paths, tops, strict=True)
    ]
    return Predictions(model=answers[0]["model"], version=answers[0]["version"], predictions=predictions)


def _predict(classifier: "Classifier", path: Path, top_k: int) -> "Prediction":
    from service.serving.predictions import Prediction, name_classes, rank

    image = read_picture(classifier, path).to(classifier.device)
    (ranked,) = rank(classifier(image.unsqueeze(0)), top_k)
    return Prediction(file=printable(str(path)), top=name_classes(ranked, classifier.card.classes))
