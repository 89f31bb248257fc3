"""Images that leave one step late end where those do that leave at once, and nobody waits to learn which."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import attacks
from attacks import AttackRun, Norm, run_attack
from attacks.standing import Standing, _Answer
from tests.attacks.digits import BUDGETS, Digits, draws

MODULES = ("pgd", "apgd", "square", "fab", "smoothed")

CASES: list[tuple[str, dict[str, Any], Norm]] = [
    ("pgd", {"steps": 6}, Norm.LINF),
    ("pgd", {"steps": 6, "step_size": 0.5}, Norm.L2),
    ("pgd", {"steps": 3, "counts": "last_step"}, Norm.LINF),
    ("apgd", {"steps": 12}, Norm.LINF),
    ("apgd", {"steps": 6, "loss": "targeted_dlr", "targets_tried": 3}, Norm.L2),
    ("square", {"queries": 40}, Norm.LINF),
    ("square", {"queries": 40}, Norm.L2),
    ("fab", {"steps": 8, "targets_tried": 2}, Norm.LINF),
    ("smoothed_pgd", {"steps": 4, "samples": 2}, Norm.LINF),
]


def leave_late(monkeypatch: pytest.MonkeyPatch, *, late: bool) -> None:
    for module in MODULES:
        monkeypatch.setattr(f"attacks.methods.{module}.Standing", partial(Standing, late=late))


def attacked(name: str, parameters: dict[str, Any], norm: Norm, model: nn.Module, on: Digits) -> AttackRun:
    attack = attacks.create(name, **parameters)
    return run_attack(attack, model, on.images, on.labels, threat=BUDGETS[norm], draws=draws(on.images))


@pytest.mark.parametrize(("name", "parameters", "norm"), CASES)
def test_a_step_late_changes_no_image(
    network: nn.Module,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    parameters: dict[str, Any],
    norm: Norm,
) -> None:
    model, some = copy.deepcopy(network).double(), Digits(digits.images[:120].double(), digits.labels[:120])
    leave_late(monkeypatch, late=False)
    expected = attacked(name, parameters, norm, model, some)
    leave_late(monkeypatch, late=True)
    found = attacked(name, parameters, norm, model, some)
    assert 0 < expected.flipped.sum() < len(some.labels)
    assert torch.equal(found.flipped, expected.flipped)
    assert torch.allclose(found.adversarial, expected.adversarial, atol=1e-9)
    if expected.steps is not None:
        assert found.steps is not None
        assert torch.equal(found.steps, expected.steps)


@pytest.mark.parametrize("late", [False, True])
def test_rows_leave_with_the_iterate_and_step_at_which_they_were_flipped(late: bool) -> None:
    standing = Standing(torch.zeros(4, 1, 2, 2), late=late)
    rows = torch.arange(4)
    for step, indices in enumerate([[1], [], [3, 1], [], [0]]):
        current = (10 * step + rows + 1.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        flipped = torch.isin(rows, torch.tensor(indices, dtype=torch.int64))
        remaining = standing.after(step, current, flipped)
        rows = rows if remaining is None else rows[remaining]
        assert len(rows) == len(standing)
    standing.end(9, torch.full((len(rows), 1, 2, 2), 100.0))
    assert standing.adversarial[:, 0, 0, 0].tolist() == [41, 2, 100, 24]
    assert standing.steps.tolist() == [4, 0, 9, 2]
    assert standing.flipped.tolist() == [True, True, False, True]


def test_when_all_are_flipped_nothing_remains() -> None:
    for late, rounds in ((False, 1), (True, 2)):
        standing = Standing(torch.zeros(3, 1, 2, 2), late=late)
        for step in range(rounds):
            standing.after(step, torch.ones(3, 1, 2, 2), torch.ones(3, dtype=torch.bool))
        assert len(standing) == 0
        standing.end(5, torch.empty(0, 1, 2, 2))
        assert standing.steps.tolist() == [0, 0, 0]


WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
}


class Waits(TorchDispatchMode):
    """Counts operations after which a host waits for its GPU; indexing by a mask is one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING or func in {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}:
            masks = [each for each in (args[1] if func not in WAITING else ()) if each is not None]
            self.count += func in WAITING or any(each.dtype == torch.bool for each in masks)
        return func(*args, **(kwargs or {}))


def read_on_the_host(answer: _Answer, device: torch.device) -> Tensor | None:
    """What has come from a GPU is looked at without waiting; on a CPU the same operations would count."""
    with _disable_current_modes():
        return REMAINING(answer, device)


REMAINING = _Answer.remaining


@pytest.mark.parametrize(
    ("name", "short", "long"),
    [
        ("pgd", {"steps": 4}, {"steps": 12}),
        ("apgd", {"steps": 4}, {"steps": 12}),
        ("smoothed_pgd", {"steps": 2, "samples": 2}, {"steps": 6, "samples": 2}),
        ("fab", {"steps": 3, "targets_tried": 1}, {"steps": 9, "targets_tried": 1}),
        ("square", {"queries": 10}, {"queries": 30}),
    ],
)
def test_no_step_waits_for_the_gpu(
    network: nn.Module,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    short: dict[str, Any],
    long: dict[str, Any],
) -> None:
    leave_late(monkeypatch, late=True)
    monkeypatch.setattr(_Answer, "remaining", read_on_the_host)
    some = Digits(digits.images[:20], digits.labels[:20])
    counts: list[int] = []
    for parameters in (short, long):
        with Waits() as waits:
            attacked(name, parameters, Norm.LINF, network, some)
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


def test_the_counter_sees_what_waits() -> None:
    values = torch.arange(4.0)
    for wait in (lambda: values[values > 1], lambda: bool(values.any()), values[0].item, values.nonzero):
        with Waits() as waits:
            wait()
        assert waits.count == 1
