"""What must hold for every attack of this project, in every norm it knows."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Draws, Norm, Task, ThreatModel, choose_targets, run_attack
from tests.attacks.digits import BUDGETS, OWN, Digits, draws, generator, robust, small


def cases() -> Iterator[tuple[str, Norm, bool]]:
    for name in OWN:
        attack = attacks.create(name)
        for norm in sorted(attack.norms):
            yield name, norm, False
            if attack.targetable:
                yield name, norm, True


every_case = pytest.mark.parametrize(("name", "norm", "targeted"), list(cases()))


def chosen(digits: Digits, count: int, *, targeted: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    images, labels = digits.images[:count], digits.labels[:count]
    return images, labels, (labels + 3) % 10 if targeted else None


@every_case
def test_stays_within_the_budget_and_does_something(
    network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool
) -> None:
    images, labels, targets = chosen(digits, 32, targeted=targeted)
    threat = BUDGETS[norm]
    run = run_attack(small(name), network, images, labels, threat=threat, draws=draws(images), targets=targets)
    assert run.adversarial.shape == images.shape
    assert run.adversarial.dtype == images.dtype
    assert run.adversarial.min() >= 0
    assert run.adversarial.max() <= 1
    difference = (run.adversarial - images).double().flatten(1)
    lengths = difference.abs().amax(1) if norm is Norm.LINF else difference.norm(dim=1)
    assert lengths.max() <= threat.eps + 1e-6
    assert lengths.max() > 0
    assert run.distances.tolist() == pytest.approx(lengths.tolist(), abs=1e-6)
    assert run.within_budget.all()


@every_case
def test_same_seed_same_images(network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool) -> None:
    images, labels, targets = chosen(digits, 8, targeted=targeted)

    def once() -> Tensor:
        task = Task(network, images, labels, BUDGETS[norm], draws(images, 5), targets)
        return small(name).perturb(task).images

    first = once()
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(first, once())


@every_case
def test_leaves_its_inputs_and_the_model_alone(
    network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool
) -> None:
    images, labels, targets = (None if x is None else x.clone() for x in chosen(digits, 8, targeted=targeted))
    assert images is not None
    assert labels is not None
    model = copy.deepcopy(network)
    before = copy.deepcopy(model.state_dict())
    small(name).perturb(Task(model, images, labels, BUDGETS[norm], draws(images), targets))
    for given, kept in zip((images, labels, targets), chosen(digits, 8, targeted=targeted), strict=True):
        assert given is kept is None or torch.equal(given, kept)
    assert not images.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not model._forward_pre_hooks


@every_case
def test_a_budget_of_zero_changes_nothing(
    network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool
) -> None:
    images, labels, targets = chosen(digits, 8, targeted=targeted)
    threat = ThreatModel(norm, 0)
    adversarial = small(name).perturb(Task(network, images, labels, threat, draws(images), targets)).images
    assert torch.equal(adversarial, images)


@every_case
def test_batches_and_order_do_not_matter(
    network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool
) -> None:
    model = copy.deepcopy(network).double()
    images, labels, targets = chosen(Digits(digits.images.double(), digits.labels), 20, targeted=targeted)

    def some(indices: list[int]) -> Tensor:
        aims = None if targets is None else targets[indices]
        task = Task(model, images[indices], labels[indices], BUDGETS[norm], Draws.of(3, indices), aims)
        return small(name).perturb(task).images

    whole = some(list(range(20)))
    sevens = torch.cat([some(list(range(start, min(start + 7, 20)))) for start in range(0, 20, 7)])
    backwards = some(list(range(20))[::-1]).flip(0)
    assert torch.allclose(sevens, whole, rtol=0, atol=1e-9)
    assert torch.allclose(backwards, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_gradient_attacks_are_stronger_than_noise(network: nn.Module, digits: Digits, norm: Norm) -> None:
    images, labels, _ = chosen(digits, 500, targeted=False)
    counts = {
        name: int(
            robust(run_attack(attack, network, images, labels, threat=BUDGETS[norm], draws=draws(images)), labels).sum()
        )
        for name, attack in [
            ("noise", attacks.create("noise")),
            ("fgsm", attacks.create("fgsm")),
            ("pgd", attacks.create("pgd", steps=20)),
        ]
    }
    assert counts["noise"] >= counts["fgsm"] + 50, counts
    assert counts["fgsm"] >= counts["pgd"] + 10, counts


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_targeted_pgd_reaches_its_targets(network: nn.Module, digits: Digits, norm: Norm) -> None:
    images, labels, _ = chosen(digits, 100, targeted=False)
    targets = choose_targets("random", network(images).detach(), labels, draws(labels, 1))

    def reached(eps: float) -> Tensor:
        run = run_attack(
            attacks.create("pgd"),
            network,
            images,
            labels,
            threat=ThreatModel(norm, eps),
            draws=draws(images),
            targets=targets,
        )
        assert run.reached is not None
        assert torch.equal(run.reached, (run.logits.argmax(1) == targets) & run.within_budget)
        return run.reached

    small_eps, large_eps = (0.02, 0.6) if norm is Norm.LINF else (0.1, 4)
    assert reached(small_eps).sum() <= 5
    assert reached(large_eps).sum() >= 95


def test_without_targets_nothing_is_said_of_reaching_them(network: nn.Module, digits: Digits) -> None:
    images, labels, _ = chosen(digits, 4, targeted=False)
    run = run_attack(small("fgsm"), network, images, labels, threat=BUDGETS[Norm.LINF], draws=draws(images))
    assert run.reached is None


@pytest.mark.parametrize("name", [name for name in OWN if Norm.L2 in small(name).norms])
@pytest.mark.parametrize(
    "eps", [3, pytest.param(0.5, marks=pytest.mark.thorough), pytest.param(16, marks=pytest.mark.thorough)]
)
def test_stays_within_an_l2_ball_of_many_pixels(name: str, eps: float) -> None:
    """Squares of 150,528 values summed in float32 are wrong by more than the harness lets pass."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
        model = nn.Sequential(*layers).eval()
    images = 0.25 + 0.5 * torch.rand(8, 3, 224, 224, generator=generator())
    labels = model(images).argmax(1)
    attack = small(name, **({"queries": 20} if name == "square" else {}))
    draws = Draws.of(0, range(8))
    run = run_attack(attack, model, images, labels, threat=ThreatModel(Norm.L2, eps), draws=draws)
    assert run.within_budget.all()
    exact = (run.adversarial.double() - images.double()).flatten(1).norm(dim=1)
    assert run.distances.tolist() == pytest.approx(exact.tolist(), rel=2e-7)
    assert exact.max() <= eps + 2e-6
