"""Copies for attacks: the same function, fewer operations, gradients to the images only."""

import copy

import pytest
import torch
from torch import Tensor, nn

import evaluation
import models
from models import Classifier
from models.opaque import OpaqueNetwork

CHECKPOINTS = sorted(evaluation.Catalog().checkpoints())


def images(classifier: Classifier, count: int = 4) -> Tensor:
    size = classifier.card.preprocessing.crop
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def logits_and_gradient(classifier: Classifier, given: Tensor) -> tuple[Tensor, Tensor]:
    leaf = given.clone().requires_grad_()
    logits = classifier(leaf)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    return logits.detach(), gradient


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def wrapped(network: nn.Module) -> Classifier:
    card = evaluation.Catalog().checkpoint("resnet_mini.fashion_mnist").card()
    return Classifier(network, card).eval()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_folded_copy_computes_the_same(name: str) -> None:
    classifier = evaluation.Catalog().load_model(name)
    state = copy.deepcopy(classifier.state_dict())
    folded = models.fold(classifier)
    for mine, expected in zip(
        logits_and_gradient(folded, images(classifier)),
        logits_and_gradient(classifier, images(classifier)),
        strict=True,
    ):
        assert (mine - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert norms(folded) <= norms(classifier) // 3
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bfloat16_takes_and_gives_float32(name: str) -> None:
    classifier = evaluation.Catalog().load_model(name)
    folded = models.fold(classifier, "bfloat16")
    assert any(tensor.dtype is torch.bfloat16 for tensor in folded.state_dict().values())
    logits, gradient = logits_and_gradient(folded, images(classifier, 16))
    expected, direction = logits_and_gradient(classifier, images(classifier, 16))
    assert logits.dtype is gradient.dtype is torch.float32
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert (gradient.sign() == direction.sign()).float().mean() > 0.9


class Tapped(nn.Module):
    """Uses a convolution's output twice: folding its norm would change the second use."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        with torch.no_grad():
            self.norm.running_mean.fill_(2.0)  # pyright: ignore
            self.norm.weight.fill_(3.0)

    def forward(self, x: Tensor) -> Tensor:
        made = self.convolution(x)
        return (self.norm(made) + made).mean((2, 3))


class Reused(nn.Module):
    """Uses one norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5)
        self.norm.eps = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x)))).mean((2, 3))


@pytest.mark.parametrize("network", [Tapped(), Reused()], ids=lambda network: type(network).__name__)
def test_what_cannot_be_folded_is_left_as_it_is(network: nn.Module) -> None:
    classifier = wrapped(network)
    folded = models.fold(classifier)
    assert norms(folded) == 1
    assert torch.allclose(folded(images(classifier)), classifier(images(classifier)), rtol=1e-5, atol=1e-6)


def test_a_graph_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph = torch.export.export(network, (torch.rand(2, 3, 32, 32),)).module()
    classifier = Classifier(OpaqueNetwork(graph), wrapped(network).card)
    assert models.fold(classifier) is classifier
