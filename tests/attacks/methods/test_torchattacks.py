"""The attacks of torchattacks behind the adapter."""

import copy
import inspect
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

import attacks
from attacks import AttackError, Norm, Task, ThreatModel, run_attack
from attacks.methods.torchattacks import ENTRIES, HANDED_OVER, LEFT_OUT, PREFIX
from tests.attacks.digits import BUDGETS, Digits, draws, robust
from tests.attacks.exact import exactly_robust

RGB_ONLY = {"PIFGSM", "PIFGSMPP", "TIFGSM"}
QUICK: dict[str, dict[str, Any]] = {
    "CW": {"c": 10, "lr": 0.05},
    "DeepFool": {"steps": 10},
    "EADEN": {"max_iterations": 20, "binary_search_steps": 3, "initial_const": 1},
    "EADL1": {"max_iterations": 20, "binary_search_steps": 3, "initial_const": 1},
    "FFGSM": {"alpha": 0.25},
    "JSMA": {"gamma": 0.5},
    "OnePixel": {"pixels": 3},
    "SPSA": {"nb_iter": 20, "lr": 0.02},
}
"""Parameters that flip at least one digit, soon."""

WEAK = {
    Norm.LINF: ThreatModel(Norm.LINF, 0.25),
    Norm.L2: ThreatModel(Norm.L2, 2),
    Norm.L1: ThreatModel(Norm.L1, 20),
    Norm.L0: ThreatModel(Norm.L0, 32),
}
"""Budgets within which most digits can be flipped."""

WITHIN = BUDGETS | {Norm.L1: ThreatModel(Norm.L1, 8), Norm.L0: ThreatModel(Norm.L0, 12)}


def cases() -> Iterator[tuple[str, Norm, bool]]:
    for name, entry in ENTRIES.items():
        for norm in entry.norms:
            for targeted in (False, True) if entry.targetable else (False,):
                yield name, norm, targeted


def test_every_class_is_used_or_left_out_for_a_reason() -> None:
    classes = {
        name for name, each in inspect.getmembers(torchattacks, inspect.isclass) if each.__module__ != "torchattacks"
    }
    classes -= {"Attack"}
    assert set(ENTRIES) | set(LEFT_OUT) == classes
    assert not set(ENTRIES) & set(LEFT_OUT)


@pytest.mark.parametrize("name", ENTRIES)
def test_parameters_and_defaults_are_those_of_torchattacks(name: str) -> None:
    signature = inspect.signature(getattr(torchattacks, name).__init__).parameters
    theirs = {
        key: each.default for key, each in signature.items() if key not in HANDED_OVER | {"self", "model", "device"}
    }
    assert attacks.parameters(attacks.create(PREFIX + name)) == theirs


@pytest.mark.parametrize(("name", "norm", "targeted"), [case for case in cases() if case[0] not in RGB_ONLY])
def test_keeps_to_the_budget_and_touches_nothing(
    network: nn.Module, digits: Digits, name: str, norm: Norm, targeted: bool
) -> None:
    images, labels = digits.images[:4], digits.labels[:4]
    targets = (labels + 3) % 10 if targeted else None
    model, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    attack = attacks.create(PREFIX + name, **QUICK.get(name, {}))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    run = run_attack(attack, model, images, labels, threat=WITHIN[norm], draws=draws(images), targets=targets)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert run.within_budget.all()
    assert torch.equal(digits.images[:4], images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("name", "norm"), sorted({case[:2] for case in cases() if case[0] not in RGB_ONLY}))
def test_batches_do_not_matter_and_the_seed_decides(network: nn.Module, digits: Digits, name: str, norm: Norm) -> None:
    attack = attacks.create(PREFIX + name, **QUICK.get(name, {}))

    def found(count: int) -> torch.Tensor:
        images, labels = digits.images[:count], digits.labels[:count]
        return attack.perturb(Task(network, images, labels, WITHIN[norm], draws(images, 7))).images

    few, more = found(2), found(3)
    assert torch.allclose(few, more[:2], rtol=0, atol=1e-5)
    assert torch.equal(few, found(2))


@pytest.mark.parametrize(("name", "norm"), sorted({case[:2] for case in cases() if case[0] not in RGB_ONLY}))
def test_fells_some(network: nn.Module, digits: Digits, name: str, norm: Norm) -> None:
    attack = attacks.create(PREFIX + name, **QUICK.get(name, {}))
    images, labels = digits.images[:20], digits.labels[:20]
    assert run_attack(attack, network, images, labels, threat=WEAK[norm], draws=draws(images)).flipped.any()


@pytest.mark.parametrize("name", sorted({case[0] for case in cases() if case[1] is Norm.LINF} - RGB_ONLY))
def test_fells_none_that_cannot_fall(nearest_mean: nn.Module, digits: Digits, name: str) -> None:
    part = Digits(digits.images[::90], digits.labels[::90])
    attack, threat = attacks.create(PREFIX + name, **QUICK.get(name, {})), ThreatModel(Norm.LINF, 0.2)
    run = run_attack(attack, nearest_mean, part.images, part.labels, threat=threat, draws=draws(part.images))
    assert not (run.flipped & exactly_robust(nearest_mean, part, threat.eps)).any()


@pytest.mark.parametrize("name", sorted(RGB_ONLY))
def test_those_for_colour_need_three_channels(network: nn.Module, digits: Digits, name: str) -> None:
    images, labels = digits.images[:2], digits.labels[:2]
    attack = attacks.create(PREFIX + name)
    with pytest.raises(AttackError, match=f"torchattacks {name}"):
        run_attack(attack, network, images, labels, threat=WITHIN[Norm.LINF], draws=draws(images))
    colour = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), network).eval()
    run = run_attack(
        attack,
        colour,
        images.expand(-1, 3, -1, -1),
        labels,
        threat=WITHIN[Norm.LINF],
        draws=draws(images.expand(-1, 3, -1, -1)),
    )
    assert run.within_budget.all()
    assert run.distances.min() > 0


@pytest.mark.parametrize(
    ("name", "parameters", "eps", "count"),
    [
        ("FGSM", {}, 0.02, 1574),
        ("FGSM", {}, 0.1, 1256),
        ("BIM", {"alpha": 0.005}, 0.02, 1574),
        ("BIM", {"alpha": 0.025}, 0.1, 1252),
        ("FAB", {"multi_targeted": True, "steps": 20}, 0.1, 1191),
    ],
)
def test_counts_on_digits(
    nearest_mean: nn.Module, digits: Digits, name: str, parameters: dict[str, Any], eps: float, count: int
) -> None:
    """BIM is PGD without a random start; 1185 is the exact worst case at 0.1."""
    attack, threat = attacks.create(PREFIX + name, **parameters), ThreatModel(Norm.LINF, eps)
    run = run_attack(attack, nearest_mean, digits.images, digits.labels, threat=threat, draws=draws(digits.images))
    assert robust(run, digits.labels).sum() == count
