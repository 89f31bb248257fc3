"""Classifiers of random weights that behave like trained ones: the statistics of their norms are those of some images."""

import torch
from torch import Tensor, nn

import models

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
