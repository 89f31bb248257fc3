"""One picture as it is, turned, flipped and attacked: what a model says of each, and what its attention weighs."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor

import attacks
import models
from attacks import Draws, ThreatModel, run_attack
from evaluation import TransformCondition, preset
from service.serving.pictures import drawing
from service.serving.predictions import ClassScore, name_classes, rank

TOP = 3
"""Classes that are named of each view."""

TURNED = tuple(each.create() for each in preset("rotation-flip") if isinstance(each, TransformCondition))
"""The quarter turns and flips of the preset."""


class View(BaseModel):
    """What a model says of one version of a picture."""

    title: Annotated[str, Field(examples=["rotation 90"])]
    top: list[ClassScore]
    flipped: Annotated[
        bool, Field(description="whether its first class is another one than that of the picture as it is")
    ]
    picture: Annotated[str, Field(description="as the model sees it, a PNG as a data URI")]
    attention: Annotated[
        str | None,
        Field(
            description="what the last attention layer weighs, over the picture; null where the model has no such layer"
        ),
    ]


class Trial(BaseModel):
    """A picture as it is, under quarter turns and flips, and under PGD that leads away from the class it has as it is."""

    model: str
    file: str
    views: list[View]
    difference: Annotated[
        str, Field(description="what PGD changed, divided by eps around middle grey: a PNG as a data URI")
    ]


def try_picture(
    classifier: models.Classifier, image: Tensor, *, model: str, file: str, threat: ThreatModel, steps: int
) -> Trial:
    """Classify a preprocessed image (3, H, W) in [0, 1] in each version; the draws are always the same."""
    clean, draws = image.unsqueeze(0).to(classifier.device), Draws.of(0, [0], device=classifier.device)
    label = attacks.predictions(attacks.classify(classifier, clean))
    attacked = run_attack(attacks.create("pgd", steps=steps), classifier, clean, label, threat=threat, draws=draws)
    images = torch.cat([clean, *(each.apply(clean, draws) for each in TURNED), attacked.adversarial])
    titles = ["as it is", *(each.title for each in TURNED), f"PGD-{steps} {threat}"]
    with torch.inference_mode():
        ranked = rank(classifier(images).float().cpu(), TOP)
    pictures, attention = [*images.cpu()], _attention(classifier, images)
    views = [
        View(
            title=title,
            top=name_classes(classes, classifier.card.classes),
            flipped=classes[0][0] != ranked[0][0][0],
            picture=drawing.data_uri(drawing.panel(picture)),
            attention=over,
        )
        for title, classes, picture, over in zip(titles, ranked, pictures, attention, strict=True)
    ]
    change = (0.5 + (attacked.adversarial - clean)[0].cpu() / (2 * threat.eps)).clamp(0, 1)
    return Trial(model=model, file=file, views=views, difference=drawing.data_uri(drawing.panel(change)))


def _attention(classifier: models.Classifier, images: Tensor) -> Sequence[str | None]:
    """The last attention layer's maps, averaged, over each image."""
    try:
        layer = models.attention_layers(classifier)[-1]
    except models.NoAttentionError:
        return [None] * len(images)
    (found,) = models.attention_maps(classifier, images, layer=layer)
    mean = (found.maps * found.scale[..., None, None]).mean(1)
    weights = (mean / mean.amax((1, 2), keepdim=True).clamp(min=1e-9)).nan_to_num().cpu().numpy()
    drawn = (drawing.over(drawing.panel(image), each) for image, each in zip(images, weights, strict=True))
    return [drawing.data_uri(each) for each in drawn]
