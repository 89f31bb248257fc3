"""Explanations: what a model's attention weighs in one picture, as numbers and as pictures; and trials of a picture.

They have a thread and a copy of the model of their own, so predictions neither wait for them nor run through their hooks.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

import models
from attacks import ThreatModel
from common.cores import give_way
from evaluation import Catalog
from service.serving.errors import OverloadedError, TooLateError
from service.serving.pictures import drawing
from service.serving.pictures.trial import Trial, try_picture
from service.serving.predictions import ClassScore, name_classes, rank

MOST_WAITING = 16
"""Explanations that may wait or run at once; more are refused."""
RETRY_AFTER_S = 1

MOST_LOADED = 3
"""Models in memory: those that were asked for last, so that some can be compared."""

Fractions = Annotated[
    tuple[float, float], Field(description="fractions (y, x) of the image, from the upper left corner")
]


class Explanation(BaseModel):
    """What one attention layer weighs in a picture as the model sees it: resized and cropped."""

    model: str
    file: str
    top: Annotated[ClassScore, Field(description="the predicted class")]
    layer: str
    layers: Annotated[list[str], Field(description="what `layer` may be, the first one first")]
    kind: Annotated[str, Field(description="what a map shows")]
    query: Fractions | None
    maps: Annotated[list[list[list[float]]], Field(description="[map][row][column], each divided by its maximum")]
    scale: Annotated[list[float], Field(description="maximum of each map before that")]
    points: Annotated[
        list[list[Fractions]] | None, Field(description="[map][point], where deformable attention sampled the image")
    ]
    scores: Annotated[list[list[float]] | None, Field(description="[map][point], softmax scores of the points")]
    overlays: Annotated[list[str], Field(description="each map over the image, a PNG as a data URI")]

    @property
    def facts(self) -> str:
        """What the maps show, in words."""
        return _facts(self.layer, self.kind, self.query, sampled=self.points is not None)


@dataclass(frozen=True)
class Explained:
    """One layer's attention in one image (3, H, W), with the logits (K,) of the image."""

    model: str
    file: str
    card: models.ModelCard
    image: Tensor
    logits: Tensor
    layers: list[str]
    attention: models.AttentionMap
    query: models.Place | None

    @property
    def top(self) -> ClassScore:
        """The predicted class."""
        return name_classes(rank(self.logits[None], 1)[0], self.card.classes)[0]

    @property
    def facts(self) -> str:
        """What the maps show, in words."""
        seen = self.attention
        return _facts(seen.layer, seen.kind, self.query, sampled=seen.points is not None)

    def as_json(self) -> Explanation:
        """Round the numbers to four digits, scores to six, and draw the overlays."""
        seen = self.attention
        return Explanation(
            model=self.model,
            file=self.file,
            top=self.top,
            layer=seen.layer,
            layers=self.layers,
            kind=seen.kind,
            query=self.query,
            maps=_rounded(seen.maps[0], 4),
            scale=seen.scale[0].tolist(),
            points=None if seen.points is None else _rounded(seen.points[0], 4),
            scores=None if seen.scores is None else _rounded(seen.scores[0], 6),
            overlays=[drawing.data_uri(each) for each in self._overlays()],
        )

    def as_png(self) -> bytes:
        """Draw the image as the model sees it, beside it each map, and above them what they are."""
        image = drawing.panel(self.image)
        drawing.mark(image, self.query)
        captions = [
            f"map {index}, maximum {maximum:.3g}" for index, maximum in enumerate(self.attention.scale[0].tolist(), 1)
        ]
        title = f"{self.model}: {self.top.label}, probability {self.top.probability:.3f}"
        panels = [("what the model sees", image), *zip(captions, self._overlays(), strict=True)]
        return drawing.png(drawing.grid(title, self.facts, panels))

    def _overlays(self) -> list[Image.Image]:
        return drawing.overlays(self.image, self.attention, self.query)


def _facts(layer: str, kind: str, query: models.Place | None, *, sampled: bool) -> str:
    facts = [f"{layer}: {kind}."]
    if query is not None:
        facts.append(f"The query is at the cross, (y, x) = ({query[0]:g}, {query[1]:g}).")
    if sampled:
        facts.append("Dots: where the keys were sampled, larger for higher scores.")
    return " ".join(facts)


def _rounded(values: Tensor, digits: int) -> Any:
    return values.double().round(decimals=digits).tolist()


def explain(
    classifier: models.Classifier,
    image: Tensor,
    *,
    model: str,
    file: str,
    layer: str | None = None,
    query: models.Place | None = None,
) -> Explained:
    """Explain a preprocessed image (3, H, W) by one attention layer, without a name by the last one.

    Raises:
        NoAttentionError: the model has no attention that can be shown.
        UnknownNameError: there is no such layer.
    """
    layers = models.attention_layers(classifier)
    images = image.unsqueeze(0).to(classifier.device)
    (seen,) = models.attention_maps(classifier, images, layer=layer or layers[-1], query=query)
    with torch.inference_mode():
        logits = classifier(images)[0].float().cpu()
    return Explained(model, file, classifier.card, image, logits, layers, seen, query)


def parse_point(text: str) -> models.Place:
    """Parse `y,x`.

    Raises:
        ValueError: it is something else than two numbers from 0 to 1.
    """
    try:
        y, x = map(float, text.split(","))
    except ValueError:
        y = x = float("nan")
    if 0 <= y <= 1 and 0 <= x <= 1:
        return y, x
    allowed = "two numbers from 0 to 1: fractions of the cropped picture, from its upper left corner"
    raise ValueError(f"a point is `y,x`, {allowed}; got {text[:40]!r}")


Answer = TypeVar("Answer")


class Explainer:
    """One thread that explains and tries one picture after the other.

    Args:
        catalog: where models are found.
        device: where they run.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, catalog: Catalog, device: str, *, timeout_s: float) -> None:
        self._catalog, self._device, self._timeout_s = catalog, device, timeout_s
        self._thread = ThreadPoolExecutor(1, "explainer", initializer=give_way)
        self._waiting = 0
        self._loaded: OrderedDict[tuple[str, str], models.Classifier] = OrderedDict()

    def stop(self) -> None:
        """End; what waits is cancelled, and what runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Do some work on the thread.

        Raises:
            OverloadedError: too many explanations are waiting.
            TooLateError: there was no answer in time.
        """
        if self._waiting >= MOST_WAITING:
            message = f"{self._waiting} explanations are waiting, at most {MOST_WAITING} are allowed; try again later"
            raise OverloadedError(message, retry_after_s=RETRY_AFTER_S)
        self._waiting += 1  # on the event loop only
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(self._thread.submit(work))
        except TimeoutError:
            raise TooLateError(f"no explanation within {self._timeout_s:g} s; the request was dropped") from None
        finally:
            self._waiting -= 1

    def explain(
        self, model: str, image: Tensor, *, file: str, layer: str | None, query: models.Place | None
    ) -> Explained:
        """Explain as `explain` does; to be called in `run`.

        Raises:
            NoAttentionError: the model has no attention that can be shown.
            UnknownNameError: there is no such model or layer.
            CheckpointError: the model cannot be loaded.
        """
        return explain(self._classifier(model), image, model=model, file=file, layer=layer, query=query)

    def try_picture(self, model: str, image: Tensor, *, file: str, threat: ThreatModel, steps: int) -> Trial:
        """Classify versions of a picture as `try_picture` does; to be called in `run`.

        Raises:
            CheckpointError: the model cannot be loaded.
        """
        return try_picture(self._classifier(model), image, model=model, file=file, threat=threat, steps=steps)

    def _classifier(self, model: str) -> models.Classifier:
        """Load a model, or take it from the last few."""
        key = model, self._catalog.model_sha256(model)
        classifier = self._loaded.pop(key, None) or self._catalog.load_model(model, self._device)
        self._loaded[key] = classifier
        if len(self._loaded) > MOST_LOADED:
            self._loaded.popitem(last=False)
        return classifier
