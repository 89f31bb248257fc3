"""Lets another precision than float32, or another decoder than evaluations have, serve only if it changes few answers."""

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

import models
from common.containers import read_header
from common.pictures import open_picture
from evaluation import Catalog, DatasetError, ImageFolder, SelectionError
from evaluation.data.broken import select_usable
from evaluation.data.classes import match_classes
from evaluation.data.pixels import Ahead
from evaluation.statistics import Proportion, proportion
from models import CheckpointError
from service.serving.deployments import Agreement, DecoderAgreement, Deployment, Measured
from service.serving.loading import load_served, require_decoder
from service.serving.runners.tensor_decoder import TensorDecoder

BATCH = 8
"""Images that are classified at once."""

AGREEMENT_IMAGES = 200
"""Images of the model's own data set on which another precision is tried."""

LEAST_AGREEMENT = 0.98
"""Share of their top-1 classes that must stay as they are."""

GENERATED, QUALITY = 64, 90
"""Pictures on which a decoder is tried where there is no data set, and the quality with which pictures are encoded as JPEG."""


def admit(catalog: Catalog, deployment: Deployment, device: str) -> Measured:
    """Try a deployment's precision, and its decoder, on images of its model's own data set.

    Raises:
        CheckpointError: the model cannot be loaded, or its precision or its decoder change too many answers.
    """
    require_decoder(deployment, device)
    in_precision = _admit_precision(catalog, deployment, device)
    if deployment.settings.decoder == "cpu":
        return Measured(agreement=in_precision)
    dataset, files = _own_files(catalog, deployment)
    classifier = load_served(catalog, deployment, device)
    decoded = compare_decoders(classifier, dataset, files, TensorDecoder(device))
    if decoded is None or decoded.agreement.value < LEAST_AGREEMENT:
        raise CheckpointError(_decoder_refusal(deployment, dataset, decoded))
    return Measured(agreement=in_precision, decoder_agreement=decoded)


def compare_decoders(
    classifier: models.Classifier, dataset: str | None, files: Sequence[bytes], decoder: TensorDecoder
) -> DecoderAgreement | None:
    """Compare the answers for those JPEGs of a data set that a decoder can decode; None if there are none."""
    preprocessing = classifier.card.preprocessing
    decoded = [(file, image) for file in files if (image := decoder(file, preprocessing)) is not None]
    if not decoded:
        return None
    expected = _probabilities(
        classifier, [torch.from_numpy(preprocessing.pixels(open_picture(file))) for file, _ in decoded]
    )
    found = _probabilities(classifier, [image for _, image in decoded])
    same = proportion(int((found.argmax(1) == expected.argmax(1)).sum()), len(decoded))
    largest = float((found - expected).abs().max())
    return same and DecoderAgreement(dataset=dataset, agreement=same, largest_difference=largest)


@torch.inference_mode()
def _probabilities(classifier: models.Classifier, images: Sequence[Tensor]) -> Tensor:
    parts = models.scaled(torch.stack(list(images))).split(BATCH)
    return torch.cat([classifier(part.to(classifier.device)).softmax(1).cpu() for part in parts])


def _decoder_refusal(deployment: Deployment, dataset: str | None, found: DecoderAgreement | None) -> str:
    same = f"{found.agreement.count} of {found.agreement.n}" if found else "none, since it could not decode any,"
    return (
        f"settings.decoder: with nvjpeg {deployment.checkpoint} gives {same} pictures of {dataset or 'our own making'} the class "
        f"that it gives them otherwise; at least {LEAST_AGREEMENT:.0%} must agree"
    )


def _own_files(catalog: Catalog, deployment: Deployment) -> tuple[str | None, list[bytes]]:
    """JPEGs of a data set's pictures with its name, or generated ones; other files are encoded anew."""
    own = _own_dataset(catalog, deployment)
    if own is None:
        return None, [_jpeg(Image.fromarray(each)) for each in _generated()]
    name, dataset, chosen = own
    files = [dataset.read(index) for index in chosen]
    return name, [file if read_header(file).format == "JPEG" else _jpeg(open_picture(file)) for file in files]


def _generated() -> NDArray[np.uint8]:
    """Random pictures (N, H, W, 3) with soft shapes."""
    coarse = torch.rand(GENERATED, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    soft = functional.interpolate(coarse, (256, 320), mode="bilinear")
    return (255 * soft).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _jpeg(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def _admit_precision(catalog: Catalog, deployment: Deployment, device: str) -> Agreement | None:
    """Try a deployment's precision; None for float32, and where no data set has the model's classes."""
    precision = deployment.settings.precision
    if precision == "float32":
        return None
    served = load_served(catalog, deployment, device)
    own = _own_dataset(catalog, deployment)
    if own is None:
        return None
    name, dataset, chosen = own
    pixels = Ahead(dataset.pixels(deployment.card.preprocessing), chosen, (), pinned=False)
    images = models.scaled(pixels.take(range(len(chosen))))
    in_float32 = replace(deployment, settings=deployment.settings.model_copy(update={"precision": "float32"}))
    expected, exact_s = _top1(load_served(catalog, in_float32, device), images)
    classes, seconds = _top1(served, images)
    agreement = proportion(int((classes == expected).sum()), len(images))
    if agreement is None or agreement.value < LEAST_AGREEMENT:
        raise CheckpointError(_refusal(deployment, name, agreement))
    return Agreement(precision=precision, dataset=name, agreement=agreement, speedup=exact_s / seconds)


def _refusal(deployment: Deployment, dataset: str, agreement: Proportion | None) -> str:
    same = "none" if agreement is None else f"{agreement.count} of {agreement.n}"
    return (
        f"settings.precision: in {deployment.settings.precision} {deployment.checkpoint} gives {same} images of {dataset} the "
        f"class that float32 gives them; at least {LEAST_AGREEMENT:.0%} must agree"
    )


def _own_dataset(catalog: Catalog, deployment: Deployment) -> tuple[str, ImageFolder, list[int]] | None:
    """The data set that the card's accuracy is about, else one with the same classes, with some of its images; no broken ones."""
    card, names = deployment.card, list(catalog.datasets())
    for name in sorted(names, key=lambda name: name not in card.clean_accuracy_on.split()):
        try:
            dataset = catalog.open_dataset(name)
            match_classes(card.classes, dataset, deployment.checkpoint)
        except DatasetError:  # it has other classes, or cannot be read
            continue
        if chosen := _select(dataset, card.preprocessing):
            return name, dataset, chosen
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
        classes = [classifier(batch.to(classifier.device)).argmax(1).cpu() for batch in images.split(BATCH)]
    return torch.cat(classes), time.perf_counter() - began
