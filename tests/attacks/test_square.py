"""Square attack: strong without gradients, and each image has its own squares."""

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Norm, ThreatModel, image_generators, run_attack
from attacks._square_search import Squares
from attacks.square import Square
from tests.attacks.digits import Digits, robust


class Detached(nn.Module):
    """A model through which no gradient passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach()).detach().mul(4).round()


def test_close_to_the_exact_count_without_gradients(nearest_mean: nn.Module, digits: Digits) -> None:
    run = run_attack(
        attacks.create("square", queries=2000),
        nearest_mean,
        digits.images,
        digits.labels,
        threat=ThreatModel(Norm.LINF, 0.1),
        generator=image_generators(0, range(len(digits.labels))),
    )
    assert 1185 <= robust(run, digits.labels).sum() <= 1195


def test_hidden_gradients_do_not_hinder_it(nearest_mean: nn.Module, digits: Digits) -> None:
    model = Detached(nearest_mean).eval()
    images, labels = digits.images[:200], digits.labels[:200]
    threat, generators = ThreatModel(Norm.LINF, 0.2), image_generators(0, range(200))
    run = run_attack(attacks.create("square", queries=300), model, images, labels, threat=threat, generator=generators)
    assert run.flipped.sum() > 50


def test_an_image_alone_falls_as_it_does_in_a_batch(network: nn.Module, digits: Digits) -> None:
    attack, threat = attacks.create("square", queries=300), ThreatModel(Norm.LINF, 0.08)
    images, labels = digits.images[:12], digits.labels[:12]
    together = run_attack(attack, network, images, labels, threat=threat, generator=image_generators(5, range(12)))
    assert 0 < together.flipped.sum() < 12
    for index in range(12):
        part = slice(index, index + 1)
        alone = run_attack(
            attack, network, images[part], labels[part], threat=threat, generator=image_generators(5, [index])
        )
        assert torch.allclose(alone.adversarial[0], together.adversarial[index])


def test_images_that_have_fallen_cost_no_more_queries(nearest_mean: nn.Module, digits: Digits) -> None:
    images, labels = digits.images[:100], digits.labels[:100]
    threat, generators = ThreatModel(Norm.LINF, 0.3), image_generators(0, range(100))
    run = run_attack(
        attacks.create("square", queries=500), nearest_mean, images, labels, threat=threat, generator=generators
    )
    standing = int((run.logits.argmax(1) == labels).sum())
    assert run.images_forwarded < 2 * 100 + 500 * standing + 100 * (100 - standing)


@pytest.mark.parametrize(("query", "side"), [(1, 200), (4, 200), (6, 142), (26, 100), (4999, 9)])
def test_squares_shrink_as_published(query: int, side: int) -> None:
    """sqrt(p) of 224 pixels, p = 0.8 halved after 10, 50, 200 ... of 10,000 queries."""
    assert Squares(1).side(Square(queries=5000)._share(query), 224, 224) == side
