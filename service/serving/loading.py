"""Loads models for predictions, and lets another precision than float32 serve only if it leaves the answers as they are."""

import time
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import models
from evaluation import Catalog, DatasetError, ImageFolder, SelectionError
from evaluation.data.broken import select_usable
from evaluation.data.classes import match_classes
from evaluation.data.pixels import Ahead
from evaluation.statistics import Proportion, proportion
from models import CheckpointError
from service.serving.deployments import Agreement, Deployment

PROBES = 8
"""Random images on which a loaded model in another precision is compared with float32."""

PROBE_TOLERANCE = 0.05
"""Largest difference of logits there, over the largest logit."""

AGREEMENT_IMAGES = 200
"""Images of the model's own data set on which another precision is tried."""

LEAST_AGREEMENT = 0.98
"""Share of their top-1 classes that must stay as they are."""


def load_served(catalog: Catalog, deployment: Deployment, device: str) -> models.Classifier:
    """Load a model as it is served: folded, in its precision, compared with float32 on random images, and warm.

    Raises:
        CheckpointError: it cannot be loaded, or its precision changes its logits too much.
    """
    precision = deployment.settings.precision
    plain = catalog.load_model(deployment.checkpoint, device)
    served = models.fold(plain, precision)
    side = deployment.card.preprocessing.crop
    probes = torch.rand(PROBES, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        served(probes[:1])
        if precision == "float32":
            return served
        exact = plain(probes)
        difference = float((served(probes) - exact).abs().max() / exact.abs().max())
    if not difference <= PROBE_TOLERANCE:
        raise CheckpointError(
            f"in {precision} the logits of {deployment.checkpoint} differ from float32's by {difference:.2g} of the largest, "
            f"at most {PROBE_TOLERANCE:g} is allowed: serve it in float32"
        )
    return served


def admit(catalog: Catalog, deployment: Deployment, device: str) -> Agreement | None:
    """Try a deployment's precision on images of its model's own data set.

    Returns:
        What was measured; None for float32, and where no data set has the model's classes.

    Raises:
        CheckpointError: the model cannot be loaded, or its precision changes too many answers.
    """
    precision = deployment.settings.precision
    if precision == "float32":
        return None
    served = load_served(catalog, deployment, device)
    own = _own_images(catalog, deployment)
    if own is None:
        return None
    dataset, images = own
    in_float32 = replace(deployment, settings=deployment.settings.model_copy(update={"precision": "float32"}))
    expected, exact_s = _top1(load_served(catalog, in_float32, device), images)
    classes, seconds = _top1(served, images)
    agreement = proportion(int((classes == expected).sum()), len(images))
    if agreement is None or agreement.value < LEAST_AGREEMENT:
        raise CheckpointError(_refusal(deployment, dataset, agreement))
    return Agreement(precision=precision, dataset=dataset, agreement=agreement, speedup=exact_s / seconds)


def _refusal(deployment: Deployment, dataset: str, agreement: Proportion | None) -> str:
    same = "none" if agreement is None else f"{agreement.count} of {agreement.n}"
    return (
        f"settings.precision: in {deployment.settings.precision} {deployment.checkpoint} gives {same} images of {dataset} the "
        f"class that float32 gives them; at least {LEAST_AGREEMENT:.0%} must agree"
    )


def _own_images(catalog: Catalog, deployment: Deployment) -> tuple[str, Tensor] | None:
    """Images (N, 3, H, W) of the data set that the card's accuracy is about, else of one with the same classes; no broken ones."""
    card, names = deployment.card, list(catalog.datasets())
    for name in sorted(names, key=lambda name: name not in card.clean_accuracy_on.split()):
        try:
            dataset = catalog.open_dataset(name)
            match_classes(card.classes, dataset, deployment.checkpoint)
        except DatasetError:  # it has other classes, or cannot be read
            continue
        chosen = _select(dataset, card.preprocessing)
        if not chosen:
            continue
        pixels = Ahead(dataset.pixels(card.preprocessing), chosen, (), pinned=False)
        return name, models.scaled(pixels.take(range(len(chosen))))
    return None


def _select(dataset: ImageFolder, preprocessing: models.Preprocessing) -> list[int]:
    """Choose images evenly from the classes, and pass over broken ones; all there are if that is not enough."""
    usable = partial(select_usable, dataset, seed=0, on_broken="skip", preprocessings=[preprocessing])
    try:
        return usable(min(AGREEMENT_IMAGES, len(dataset)))[0]
    except SelectionError:
        return usable(None)[0]


def _top1(classifier: models.Classifier, images: Tensor) -> tuple[Tensor, float]:
    """Classes (N,) and the seconds they took in small batches."""
    began = time.perf_counter()
    with torch.inference_mode():
        classes = [classifier(batch.to(classifier.device)).argmax(1).cpu() for batch in images.split(PROBES)]
    return torch.cat(classes), time.perf_counter() - began
