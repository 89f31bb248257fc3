"""Copies of classifiers for attacks and predictions: the same function in fewer operations or a smaller type."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from common.float32 import Float32, float32_as
from common.generators import seeded
from models.classifier import Classifier
from models.opaque import OpaqueNetwork
from models.registry import families

Precision = Literal["float32", "tf32", "bfloat16"]
"""Type of the copy that attacks search: float32; float32 with the inputs of products rounded on a GPU (see `common.float32`); or
weights and maps in bfloat16. Images, normalisation and logits are always float32."""

ServingPrecision = Literal["float32", "bfloat16", "float16"]
"""Type of a copy for predictions only: gradients in float16 would vanish."""

_DTYPES: dict[Precision | ServingPrecision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

TOLERANCE = 1e-3
"""Largest difference between a folded copy's logits and the original's, relative to the largest logit; else norms stay separate."""


def float32_in(precision: Precision) -> Float32:
    """What float32 means in a search: beside maps in bfloat16, the remaining float32 may be rounded too."""
    return "ieee" if precision == "float32" else "tf32"


class _InPrecision(nn.Module):
    """Runs a network in another type, with float32 inputs and outputs."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype)).float()


@float32_as("ieee")
def fold(classifier: Classifier, precision: Precision | ServingPrecision = "float32") -> Classifier:
    """Copy a classifier for attacks and predictions: weights are frozen, norms are merged into the convolutions before them.

    A family may have its own form, see `Family.fold`; any other network has the same modules, stored channels-last. The copy is
    compared with the original on random images; if they differ, the norms stay separate. A graph from a file is not copied.

    Args:
        classifier: in evaluation mode; it is not changed.
        precision: bfloat16 is for searching adversarial images, which the original then judges; float16 is for predictions only;
            tf32 makes the same copy as float32, to be run within `common.float32`.
    """
    network, dtype = classifier.network, _DTYPES[precision]
    own = {kind: form for family in families() for kind, form in family.fold.items()}.get(type(network))
    if own is not None and (made := own(network, dtype)) is not None:
        return _like(classifier, made)
    if isinstance(network, OpaqueNetwork):
        return classifier
    folded = _folded(classifier)
    if dtype != torch.float32:
        folded = _InPrecision(folded, dtype)
    return _like(classifier, folded.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]


def _like(classifier: Classifier, network: nn.Module) -> Classifier:
    return Classifier(network.requires_grad_(False), classifier.card, classifier.columns).to(classifier.device).eval()


def _folded(classifier: Classifier) -> nn.Module:
    """A frozen copy of the network with merged norms; a plain copy if merging them changes the logits."""
    plain = copy.deepcopy(classifier.network).eval().requires_grad_(False)
    size = classifier.card.preprocessing.crop
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    with torch.no_grad():
        normalised = classifier.normalise(images)
        expected = _passed(plain, normalised)
        folded = copy.deepcopy(plain)
        names = {module: name for name, module in folded.named_modules()}
        for convolution, norm in _pairs(folded, normalised):
            folded.set_submodule(names[convolution], _merged(convolution, norm))
            folded.set_submodule(names[norm], nn.Identity())
        difference = (_passed(folded, normalised) - expected).abs().max()
    return folded if difference <= TOLERANCE * expected.abs().max() else plain


def _passed(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network; one that is randomised draws the same numbers each time."""
    with seeded(0):
        return network(images)


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the norms that take their output, found by watching a forward pass; modules used twice are left out."""
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that their ids stay unique
    uses: dict[nn.Module, int] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        uses[module] = uses.get(module, 0) + 1
        if type(module) is nn.Conv2d:
            made_by[id(output)] = (module, output)
        elif id(inputs[0]) in made_by:
            found.append((made_by[id(inputs[0])][0], cast(nn.BatchNorm2d, module)))

    watched = [module for module in network.modules() if type(module) in {nn.Conv2d, nn.BatchNorm2d}]
    hooks = [module.register_forward_hook(watch) for module in watched]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in found if uses[pair[0]] == uses[pair[1]] == 1 and pair[1].running_mean is not None]


def _merged(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    fused = fuse_conv_bn_eval(copy.deepcopy(convolution).double(), copy.deepcopy(norm).double())
    return fused.to(convolution.weight)
