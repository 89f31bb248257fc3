"""The command `predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.options import DataDir, Device, Json, ModelDir, read_picture, settings_of, usable
from common import printable

if TYPE_CHECKING:
    from models import Classifier
    from service.serving.predictions import Prediction

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint; `withstand models` lists them.")],
    image: Annotated[list[Path], typer.Argument(help="Picture files to classify.")],
    top_k: Annotated[
        int, typer.Option(min=1, help="Number of classes to print per picture, the most probable first.")
    ] = 5,
    device: Device = "",
    data_dir: DataDir = None,
    model_dir: ModelDir = [],
    as_json: Json = False,
) -> None:
    """Classify pictures here and now, without a server."""
    from service.serving.deployments import version_of
    from service.serving.predictions import Predictions

    classifier = settings_of(data_dir=data_dir, model_dir=model_dir).catalog().load_model(model, usable(device))
    predictions = [_predict(classifier, path, top_k) for path in image]
    if as_json:
        typer.echo(
            Predictions(model=model, version=version_of(model), predictions=predictions).model_dump_json(indent=2)
        )
        return
    for prediction in predictions:
        scores = ", ".join(f"{each.label} {each.probability:.3f}" for each in prediction.top)
        typer.echo(f"{prediction.file}: {scores}")


def _predict(classifier: "Classifier", path: Path, top_k: int) -> "Prediction":
    from service.serving.predictions import Prediction, name_classes, rank

    image = read_picture(classifier, path).to(classifier.device)
    (ranked,) = rank(classifier(image.unsqueeze(0)), top_k)
    return Prediction(file=printable(str(path)), top=name_classes(ranked, classifier.card.classes))
