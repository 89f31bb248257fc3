"""Classifiers of random weights that behave like trained ones: the statistics of their norms are those of some images."""

from collections.abc import Callable
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

import models
from common.float32 import float32_as

T = TypeVar("T")

CLASSES = tuple(f"class {index}" for index in range(1000))


def card(name: str) -> models.ModelCard:
    """The card of an architecture at the size of image that it was published for."""
    side = models.spec(name).input_shape[-1]
    how = models.Preprocessing(resize=max(side, side * 8 // 7), crop=side)
    return models.ModelCard(architecture=name, classes=CLASSES, preprocessing=how)


def random_classifier(name: str, images: Tensor) -> models.Classifier:
    """Build an architecture on the images' device, frozen, with weights of a fixed seed.

    Args:
        name: of the architecture.
        images: (N, 3, H, W) in [0, 1], of the size that `card` says; without their statistics activations and gradients grow
            or vanish with depth.
    """
    torch.manual_seed(0)
    classifier = models.Classifier(models.create(name), card(name)).to(images.device).requires_grad_(False)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        classifier.train()(images)
    return classifier.eval()


def precisions(device: torch.device) -> tuple[models.Precision, ...]:
    """Those that differ on a device."""
    every: tuple[models.Precision, ...] = get_args(models.Precision)
    return tuple(each for each in every if device.type == "cuda" or each != "tf32")


def in_precision(precision: models.Precision, call: Callable[[], T]) -> Callable[[], T]:
    """The call where float32 means what a precision says."""
    return float32_as(models.float32_in(precision))(call)
