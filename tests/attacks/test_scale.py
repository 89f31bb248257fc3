"""What an attack finds depends neither on the scale of the logits nor on that of the gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks import Norm, ThreatModel, log_odds_against, predictions, run_attack
from attacks.norms import steepest
from tests.attacks.digits import BUDGETS, Digits, draws

SCALES = (1e-9, 1e-3, 1.0, 5.0, 8.0, 1e4)


class Scaled(nn.Module):
    """A model whose logits are multiplied; with two classes, the margin of one over the other."""

    def __init__(self, model: nn.Module, scale: float, *, two_classes: bool = False) -> None:
        super().__init__()
        self.model, self.scale, self.two_classes = model, scale, two_classes

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        if self.two_classes:
            logits = torch.stack([logits[:, :5].logsumexp(1), logits[:, 5:].logsumexp(1)], 1)
        return self.scale * logits


def standing(name: str, model: nn.Module, digits: Digits, norm: Norm, **parameters: object) -> Tensor:
    run = run_attack(
        attacks.create(name, **parameters),
        model.eval(),
        digits.images,
        digits.labels,
        threat=BUDGETS[norm],
        draws=draws(digits.images),
    )
    return (predictions(run.clean_logits) == digits.labels) & ~run.flipped


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_the_verdicts_are_the_same_at_every_scale(network: nn.Module, digits: Digits, name: str, norm: Norm) -> None:
    """With two classes the softmax has no say in the direction, so that verdicts agree but for rounding."""
    few = Digits(digits.images[:200], digits.labels[:200] // 5)
    found = [standing(name, Scaled(network, scale, two_classes=True), few, norm, steps=10) for scale in SCALES]
    assert 10 < found[2].sum() < 190
    for each in found:
        assert (each != found[2]).sum() <= 2


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("scale", [5.0, 8.0, 1e4])
def test_certain_models_are_attacked_as_well(network: nn.Module, digits: Digits, norm: Norm, scale: float) -> None:
    few = Digits(digits.images[:200], digits.labels[:200])
    plain, certain = (standing("pgd", Scaled(network, each), few, norm, steps=20).sum() for each in (1.0, scale))
    assert abs(int(certain) - int(plain)) <= 10


@settings(deadline=None)
@given(exponent=st.floats(-37, 30), seed=st.integers(0, 1000))
def test_a_step_has_length_one_at_any_scale_of_the_gradient(exponent: float, seed: int) -> None:
    gradient = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    step = steepest(gradient * 10.0**exponent, Norm.L2)
    assert torch.allclose(step.flatten(1).norm(dim=1), torch.ones(3), rtol=1e-5)
    assert torch.allclose(step, steepest(gradient, Norm.L2), atol=2e-3 if exponent < -36 else 1e-6)


def test_no_gradient_is_no_step() -> None:
    assert not steepest(torch.zeros(2, 3, 4, 4), Norm.L2).any()


def test_log_odds_are_those_of_the_softmax() -> None:
    logits = torch.randn(50, 7, dtype=torch.float64)
    classes = torch.arange(50) % 7
    p = logits.softmax(1).gather(1, classes.unsqueeze(1)).squeeze(1)
    assert torch.allclose(log_odds_against(logits, classes), ((1 - p) / p).log())
    leaf = logits.clone().requires_grad_()
    (ours,) = torch.autograd.grad(log_odds_against(leaf, classes).sum(), leaf)
    (cross_entropy,) = torch.autograd.grad(F.cross_entropy(leaf, classes, reduction="sum"), leaf)
    assert torch.allclose(ours * (1 - p).unsqueeze(1), cross_entropy)


def test_one_class_has_nothing_to_move_to() -> None:
    leaf = torch.randn(2, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds_against(leaf, torch.zeros(2, dtype=torch.int64)).sum(), leaf)
    assert gradient.isfinite().all()


def test_what_is_not_finite_is_no_class() -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[1.0, 2.0], [nan, 2.0], [1.0, inf], [1.0, -inf], [3.0, 2.0]])
    assert predictions(logits).tolist() == [1, -1, -1, -1, 0]


class Holes(nn.Module):
    """Linear, but NaN where the first pixel is above a bound."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1)
        logits = torch.stack([total, -total], 1)
        return logits.masked_fill((images[:, 0, 0, 0] > 0.6).unsqueeze(1), float("nan"))


def test_an_image_without_finite_logits_is_wrong() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    images[1, 0, 0, 0] = 0.9
    labels = torch.zeros(2, dtype=torch.int64)
    threat = ThreatModel(Norm.LINF, 0.2)
    run = run_attack(attacks.create("pgd", steps=4), Holes().eval(), images, labels, threat=threat, draws=draws(images))
    assert run.flipped.tolist()[1] is False  # it was wrong before
    up = run_attack(attacks.create("noise"), Holes().eval(), images[:1], labels[:1], threat=ThreatModel(Norm.LINF, 0.5),
                    draws=attacks.Draws.of(3, range(len(images[:1]))))  # fmt: skip
    assert bool(up.flipped[0]) == bool(up.adversarial[0, 0, 0, 0] > 0.6)
