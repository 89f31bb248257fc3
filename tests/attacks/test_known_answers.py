"""Counts and losses that were known before the attacks were written."""

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Norm, ThreatModel, run_attack
from tests.attacks.digits import OWN, Digits, draws, generator, robust, small
from tests.attacks.exact import EXACT, exactly_robust

LINF_ATTACKS = [name for name in OWN if Norm.LINF in attacks.create(name).norms]


def attacked(attack: attacks.Attack, model: nn.Module, digits: Digits, eps: float) -> attacks.AttackRun:
    threat = ThreatModel(Norm.LINF, eps)
    return run_attack(attack, model, digits.images, digits.labels, threat=threat, draws=draws(digits.images))


def test_clean_count(nearest_mean: nn.Module, digits: Digits) -> None:
    assert (nearest_mean(digits.images).argmax(1) == digits.labels).sum() == 1626


@pytest.mark.parametrize(("eps", "count"), list(EXACT.items()))
def test_exact_worst_case(nearest_mean: nn.Module, digits: Digits, eps: float, count: int) -> None:
    assert exactly_robust(nearest_mean, digits, eps).sum() == count


@pytest.mark.parametrize(("eps", "count"), [(0.02, 1574), (0.1, 1256)])
def test_fgsm_count(nearest_mean: nn.Module, digits: Digits, eps: float, count: int) -> None:
    run = attacked(attacks.create("fgsm"), nearest_mean, digits, eps)
    assert robust(run, digits.labels).sum() == count


@pytest.mark.parametrize(
    ("eps", "counts", "count"), [(0.02, "last_step", 1574), (0.1, "last_step", 1252), (0.1, "any_step", 1250)]
)
def test_pgd_count(nearest_mean: nn.Module, digits: Digits, eps: float, counts: str, count: int) -> None:
    attack = attacks.create("pgd", steps=10, step_size=eps / 4, random_start=False, counts=counts)
    assert robust(attacked(attack, nearest_mean, digits, eps), digits.labels).sum() == count


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("name", LINF_ATTACKS)
def test_no_attack_flips_what_cannot_be_flipped(nearest_mean: nn.Module, digits: Digits, name: str, eps: float) -> None:
    part = Digits(digits.images[::6], digits.labels[::6])
    run = attacked(small(name), nearest_mean, part, eps)
    assert not (run.flipped & exactly_robust(nearest_mean, part, eps)).any()


@pytest.mark.parametrize(
    ("name", "parameters", "count"),
    [
        ("rotation", {"degrees": 90}, 263),
        ("rotation", {"degrees": 180}, 708),
        ("rotation", {"degrees": 270}, 228),
        ("flip", {"direction": "upside_down"}, 696),
        ("flip", {"direction": "left_right"}, 643),
    ],
)
def test_turned_and_mirrored_counts(
    nearest_mean: nn.Module, digits: Digits, name: str, parameters: dict, count: int
) -> None:
    turned = attacks.create_transform(name, **parameters).apply(digits.images, draws(digits.images))
    assert (nearest_mean(turned).argmax(1) == digits.labels).sum() == count


class BinaryLinear(nn.Module):
    """Logits (0, w.x): moving within the box by at most eps lowers the second by at most eps times the dual norm of w."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize(
    ("norm", "dual", "random_start"), [(Norm.LINF, 1, False), (Norm.LINF, 1, True), (Norm.L2, 2, False)]
)
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_finds_the_worst_case_of_a_linear_model(norm: Norm, dual: int, random_start: bool, targeted: bool) -> None:
    weight = torch.randn(12, generator=generator(1), dtype=torch.float64)
    model, eps = BinaryLinear(weight).eval(), 0.1
    images = 0.3 + 0.4 * torch.rand(5, 3, 2, 2, generator=generator(2), dtype=torch.float64)  # the box does not bind
    labels = torch.ones(5, dtype=torch.int64)
    attack = attacks.create("pgd", steps=10, random_start=random_start, counts="last_step")
    run = run_attack(
        attack,
        model,
        images,
        labels,
        threat=ThreatModel(norm, eps),
        draws=draws(images),
        targets=1 - labels if targeted else None,
    )
    loss = (run.clean_logits - run.logits)[:, 1]
    assert loss.tolist() == pytest.approx([eps * weight.norm(p=dual).item()] * 5, rel=1e-8)


class TwoPixels(nn.Module):
    """A smooth, curved boundary in the plane of two pixels."""

    def forward(self, images: Tensor) -> Tensor:
        a, b = images.flatten(1).unbind(1)
        score = torch.sin(5 * a) + 2 * b * b - a * b - 0.9
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_pgd_agrees_with_brute_force_over_two_pixels(norm: Norm) -> None:
    model, eps = TwoPixels().eval(), 0.15
    images = torch.rand(100, 1, 1, 2, generator=generator(3), dtype=torch.float64)
    labels = model(images).argmax(1)
    axis = torch.linspace(-eps, eps, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    if norm is Norm.L2:
        grid = grid[grid.norm(dim=1) <= eps]
    candidates = (images.view(100, 1, 2) + grid).clamp(0, 1)  # (N, grid points, 2)
    logits = model(candidates.view(-1, 1, 1, 2)).view(100, -1, 2)
    own = logits.gather(2, labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)).squeeze(2)
    worst = own.amin(1)  # negative where some grid point is misclassified

    attack = attacks.create("pgd", steps=50, step_size=0.01)
    starts = [
        run_attack(attack, model, images, labels, threat=ThreatModel(norm, eps), draws=draws(images, seed))
        for seed in range(5)
    ]
    flipped = torch.stack([run.flipped for run in starts]).any(0)
    decided = worst.abs() > 0.01  # the grid's resolution
    assert 20 < (worst[decided] < 0).sum() < decided.sum() - 20
    assert torch.equal(flipped[decided], worst[decided] < 0)
