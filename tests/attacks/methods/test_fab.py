"""Targeted FAB: exact projections, known counts, the verdicts of torchattacks, and the passes it announces."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from torch import nn

import attacks
from attacks import Norm, ThreatModel, run_attack
from attacks.methods.fab import to_hyperplane
from tests.attacks.digits import BUDGETS, Digits, draws, generator, robust
from tests.attacks.exact import exactly_robust


def shortest(image: np.ndarray, normal: np.ndarray, to_cover: float, norm: Norm) -> float:
    """Length of the shortest change onto the hyperplane within the box: a linear programme, or the root of its multiplier."""
    if norm is Norm.LINF:
        size = len(image)
        above = np.block([[np.eye(size), -np.ones((size, 1))], [-np.eye(size), -np.ones((size, 1))]])
        found = linprog(
            [0] * size + [1],
            A_ub=above,
            b_ub=np.zeros(2 * size),
            A_eq=[[*normal, 0]],
            b_eq=[to_cover],
            bounds=[*zip(-image, 1 - image, strict=True), (0, None)],
        )
        return found.fun

    def change(multiplier: float) -> np.ndarray:
        return np.clip(multiplier * normal, -image, 1 - image)

    return float(np.linalg.norm(change(brentq(lambda each: normal @ change(each) - to_cover, -1e4, 1e4, xtol=1e-14))))


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_projections_are_the_shortest(norm: Norm) -> None:
    """Onto hyperplanes that the box reaches, some of them close to a corner, with zeros in the normal."""
    count, shape = 40, (1, 2, 4)
    draw = generator(3)
    images = torch.rand(count, *shape, generator=draw, dtype=torch.float64)
    normal = torch.randn(count, *shape, generator=draw, dtype=torch.float64)
    normal[::3, :, 0, :2] = 0
    reach = (normal.clamp(min=0) * (1 - images) - normal.clamp(max=0) * images).sum((1, 2, 3))
    back = (normal.clamp(min=0) * images - normal.clamp(max=0) * (1 - images)).sum((1, 2, 3))
    share = torch.rand(count, generator=draw, dtype=torch.float64)
    to_cover = torch.where(torch.arange(count) % 2 == 0, share * reach, -share * back)
    change = to_hyperplane(images, normal, to_cover, norm)
    assert torch.allclose((normal * change).sum((1, 2, 3)), to_cover, atol=1e-12)
    assert (images + change).min() >= -1e-12
    assert (images + change).max() <= 1 + 1e-12
    lengths = change.flatten(1).abs().amax(1) if norm is Norm.LINF else change.flatten(1).norm(dim=1)
    expected = [
        shortest(image.flatten().numpy(), w.flatten().numpy(), c.item(), norm)
        for image, w, c in zip(images, normal, to_cover, strict=True)
    ]
    assert lengths.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_hyperplane_beyond_the_box_leads_to_its_corner(norm: Norm) -> None:
    images, normal = torch.tensor([[[[0.2, 0.7, 0.4]]]]), torch.tensor([[[[3.0, -1e-3, 0]]]])
    change = to_hyperplane(images, normal, torch.tensor([100.0]), norm)
    assert (images + change).flatten().tolist() == pytest.approx([1, 0, 0.4])
    still = to_hyperplane(images, 0 * normal, torch.tensor([1.0]), norm)
    assert torch.equal(still, torch.zeros_like(images))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_logits_does_not_matter(scale: float) -> None:
    images, normal, to_cover = torch.rand(4, 3, 5, 5, generator=generator()), torch.randn(4, 3, 5, 5), torch.ones(4)
    expected = to_hyperplane(images, normal, to_cover, Norm.L2)
    assert torch.allclose(to_hyperplane(images, scale * normal, scale * to_cover, Norm.L2), expected, atol=1e-5)


def test_close_to_the_exact_count(nearest_mean: nn.Module, digits: Digits) -> None:
    part = Digits(digits.images[::3], digits.labels[::3])
    attack, threat = attacks.create("fab", steps=20), ThreatModel(Norm.LINF, 0.1)
    run = run_attack(attack, nearest_mean, part.images, part.labels, threat=threat, draws=draws(part.images))
    exact = exactly_robust(nearest_mean, part, threat.eps)
    assert not (run.flipped & exact).any()
    assert exact.sum() <= robust(run, part.labels).sum() <= exact.sum() + 5


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_verdicts_are_those_of_torchattacks(network: nn.Module, digits: Digits, norm: Norm) -> None:
    images, labels = digits.images[:150], digits.labels[:150]

    def left(name: str, **parameters: Any) -> torch.Tensor:
        attack = attacks.create(name, steps=15, **parameters)
        run = run_attack(attack, network, images, labels, threat=BUDGETS[norm], draws=draws(images))
        assert run.within_budget.all()
        return robust(run, labels)

    ours = left("fab")
    assert 10 < ours.sum() < 140
    assert torch.equal(ours, left("torchattacks:FAB", multi_targeted=True))


def stubborn(classes: int) -> nn.Module:
    """A linear model whose class 0 wins everywhere in the box."""
    linear = nn.Linear(12, classes)
    with torch.no_grad():
        linear.weight.copy_(0.01 * torch.randn(classes, 12, generator=generator()))
        linear.bias.copy_(torch.tensor([9.0] + [0.0] * (classes - 1)))
    return nn.Sequential(nn.Flatten(), linear).eval()


@pytest.mark.parametrize(
    ("name", "parameters", "besides"), [("fab", {}, 1), ("torchattacks:FAB", {"multi_targeted": True}, None)]
)
@pytest.mark.parametrize("classes", [5, 10, 50, 1000])
def test_nine_targets_at_most_are_tried(
    name: str, parameters: dict[str, Any], besides: int | None, classes: int
) -> None:
    """Two forward passes a step, one with a gradient that counts as three; the harness adds one before and one after."""
    images, steps, tried = torch.full((1, 3, 2, 2), 0.5), 7, min(classes - 1, 9)
    attack = attacks.create(name, steps=steps, **parameters)
    labels, threat = torch.zeros(1, dtype=torch.int64), ThreatModel(Norm.LINF, 0.1)
    run = run_attack(attack, stubborn(classes), images, labels, threat=threat, draws=draws(images))
    assert not run.flipped.any()
    forwarded = run.images_forwarded - 2
    if besides is None:  # torchattacks looks at the images a few times more for each target
        assert 2 * steps * tried <= forwarded <= (2 * steps + 4) * tried + 3
    else:
        assert forwarded == 2 * steps * tried + besides
        assert attack.passes == 4 * steps * 9 + besides


def test_images_that_have_fallen_cost_no_more(network: nn.Module, digits: Digits) -> None:
    images, labels = digits.images[:60], digits.labels[:60]
    threat = ThreatModel(Norm.LINF, 0.3)
    run = run_attack(attacks.create("fab", steps=50), network, images, labels, threat=threat, draws=draws(images))
    flipped = run.flipped
    assert flipped.sum() > 50
    assert run.steps is not None
    assert (run.steps[flipped] >= 1).all()
    assert run.images_forwarded == 3 * len(images) + 2 * run.steps.sum()
    assert (run.steps[run.clean_logits.argmax(1) != labels] == 0).all()
