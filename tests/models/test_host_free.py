"""No forward or backward pass moves anything between host and device: such a pass can be captured as a CUDA graph and never waits.

The pretended device is "meta", whose tensors hold nothing: what needs a value of them raises, and what lies in the host's memory
shows by its device.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models import Classifier, ModelCard
from tests.models.host_free import MovesError, differentiate

DEEPER = re.compile(r"(26|38|50|101|152|san15|san19|small|base)")
"""Of networks that have more of the same layers."""
SMALL = [name for name in models.names() if "mini" in name] + ["se_resnet34", "resnet18"]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("san_mini_pairwise", {"relation": r}) for r in ("summation", "concatenation", "hadamard", "dot")),
    *(("san_mini_pairwise", {"position": p, "transforms": "all_tied"}) for p in ("absolute", "none")),
    *(("san_mini_patchwise", {"relation": r}) for r in ("star", "clique")),
    *(("aa_resnet_mini", {"positions": p}) for p in ("none", "sine", "coord")),
    *(("dat_mini", {"position": p}) for p in ("fixed", "depthwise", "none")),
    ("dat_mini", {"offset_range": 0.0}),
]


def differentiate_classifier(classifier: Classifier) -> None:
    name = classifier.card.architecture
    images = torch.empty(2, *models.spec(name).input_shape, device="meta")
    gradient = differentiate(classifier, images, *classifier.parameters(), *classifier.buffers())
    assert gradient.shape == images.shape


def card(name: str) -> ModelCard:
    side = models.spec(name).input_shape[1]
    preprocessing = models.Preprocessing(resize=side, crop=side)
    return ModelCard(architecture=name, classes=tuple("abcde"), preprocessing=preprocessing)


def on_device(name: str, **options: Any) -> Classifier:
    with torch.device("meta"):
        network = models.create(name, num_classes=5, **options)
        return Classifier(network, card(name)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", [name for name in models.names() if not DEEPER.search(name)])
def test_networks_as_they_are(name: str) -> None:
    differentiate_classifier(on_device(name))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_of_the_families(name: str, options: dict[str, Any]) -> None:
    differentiate_classifier(on_device(name, **options))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_folded_copies(name: str, precision: models.Precision) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create(name, num_classes=5).eval()
    folded = models.fold(Classifier(network, card(name)).eval(), precision)
    differentiate_classifier(folded.to("meta"))


def test_a_choice_among_the_classes() -> None:
    differentiate_classifier(on_device("resnet_mini").restricted((0, 3)))


HOST = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: x + torch.ones(4), RuntimeError),
        (lambda x: x + torch.ones(4).to(x.device), MovesError),
        (lambda x: x * torch.tensor(2.0).to(x.device), MovesError),
        (lambda x: x[:, [0, 1]], MovesError),
        (lambda x: x[:, (0, 1)], MovesError),
        (lambda x: x[HOST], MovesError),
        (lambda x: x * x.new_tensor([1.0, 2.0, 3.0, 4.0]), MovesError),
        (lambda x: x * torch.tensor([2.0], device=x.device), MovesError),
        (lambda x: x * x.detach().sum().item(), RuntimeError),
        (lambda x: x if x.detach().sum() > 0 else -x, RuntimeError),
        (lambda x: x[x.detach() > 0], NotImplementedError),
    ],
)
def test_what_is_refused(function: Callable[[Tensor], Tensor], error: type[Exception]) -> None:
    with pytest.raises(error):
        differentiate(function, torch.empty(3, 4, device="meta"))


@pytest.mark.parametrize(
    "function", [lambda x: x * 2.0, lambda x: x[:, :2], lambda x: x * torch.ones(4, device=x.device), lambda x: x[:, 1]]
)
def test_what_is_allowed(function: Callable[[Tensor], Tensor]) -> None:
    differentiate(function, torch.empty(3, 4, device="meta"))
