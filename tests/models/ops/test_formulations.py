"""Which formulation of SAN's operations runs where, and that all of them compute the same."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.san_ops import peak_mib
from models.ops import neighbourhood, pairwise, patchwise
from models.ops.neighbourhood import aggregation, formulation, in_chunks, subtraction
from models.ops.pairwise import pairwise_core, unfolded_pairwise
from models.ops.patchwise import patchwise_core, unfolded_patchwise
from tests.models.host_free import differentiate
from tests.models.operands import CORES, pairwise_operands, patchwise_operands, random

GATHERED_BYTES = [2**28, 80_000, 1]
"""All images at once, some at a time, and one at a time."""
LOOPS = [
    (neighbourhood, "_Aggregation"),
    (neighbourhood, "_Subtraction"),
    (pairwise, "_PairwiseCore"),
    (patchwise, "_PatchwiseCore"),
]


def with_gradients(function: Callable[..., Tensor], operands: list[Tensor]) -> list[Tensor]:
    operands = [x.detach().requires_grad_() for x in operands]
    output = function(*operands)
    return [output, *torch.autograd.grad(output, operands, random(*output.shape, seed=7))]


def require_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    for mine, other in zip(ours, expected, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= 1e-11 * other.abs().max()


@pytest.mark.parametrize(
    ("device_type", "kernels_fit", "compiling", "expected"),
    [
        ("cuda", True, False, "kernels"),
        ("cuda", True, True, "kernels"),
        ("cuda", False, False, "unfold"),
        ("mps", False, False, "unfold"),
        ("cuda", False, True, "unfold"),
        ("cpu", False, False, "taps"),
        ("cpu", False, True, "unfold"),
    ],
)
def test_what_runs_where(device_type: str, kernels_fit: bool, compiling: bool, expected: str) -> None:
    assert formulation(device_type, kernels_fit=kernels_fit, compiling=compiling) == expected


def operations(name: str, device: str = "cpu") -> tuple[Callable[..., Tensor], list[Tensor], tuple[Tensor, ...]]:
    """An operation with a footprint of 3, its operands for five images, and its weights."""
    if name in ("aggregation", "subtraction"):
        others = (2, 9, 30) if name == "aggregation" else (4, 5, 6)
        function = aggregation if name == "aggregation" else subtraction
        operands = [random(5, *shape, seed=i).to(device) for i, shape in enumerate([(4, 5, 6), others])]
        return partial(function, kernel_size=3), operands, ()
    core, make = CORES[name]
    operands, weights = make(n=5, h=5, w=6, k=3)
    weights = type(weights)(*(x.to(device) for x in weights))
    return lambda *x: core(*x, weights, kernel_size=3), [x.detach().to(device) for x in operands], weights


every_operation = pytest.mark.parametrize("name", ["aggregation", "subtraction", "pairwise", "patchwise"])


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose what a GPU would without kernels."""
    for module in (neighbourhood, pairwise, patchwise):
        monkeypatch.setattr(module, "formulation", lambda *_, **__: "unfold")


@pytest.mark.parametrize("gathered_bytes", GATHERED_BYTES)
@every_operation
def test_gathered_taps_give_what_loops_give(
    name: str, gathered_bytes: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    operation, operands, _ = operations(name)
    expected = with_gradients(operation, operands)
    request.getfixturevalue("as_on_a_gpu")
    monkeypatch.setattr(neighbourhood, "GATHERED_BYTES", gathered_bytes)
    require_equal(with_gradients(operation, operands), expected)


@pytest.mark.parametrize(("h", "w", "k"), [(3, 4, 3), (3, 3, 5), (8, 2, 3), (1, 1, 1), (4, 5, 7)])
def test_border_classes_reach_their_places(h: int, w: int, k: int) -> None:
    operands, weights = pairwise_operands(n=2, h=h, w=w, k=k)
    unfolded = with_gradients(lambda *x: unfolded_pairwise(*x, weights, k), operands)
    require_equal(unfolded, with_gradients(lambda *x: pairwise_core(*x, weights, kernel_size=k), operands))
    operands, maps = patchwise_operands(n=2, h=h, w=w, k=k)
    unfolded = with_gradients(lambda *x: unfolded_patchwise(*x, maps, k), operands)
    require_equal(unfolded, with_gradients(lambda *x: patchwise_core(*x, maps, kernel_size=k), operands))


@every_operation
def test_a_device_that_is_no_cpu_gathers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, in parts; nothing comes from the host."""
    for module, loops in LOOPS:
        monkeypatch.setattr(module, loops, None)
    monkeypatch.setattr(neighbourhood, "GATHERED_BYTES", 1)
    operation, (first, *others), weights = operations(name, "meta")
    differentiate(lambda x: operation(x, *others), first, *others, *weights)


@pytest.mark.parametrize("name", ["aggregation", "pairwise", "patchwise"])
def test_parts_bound_the_memory(name: str, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and gradient of more images need no more for their taps."""
    operation, operands, _ = operations(name)
    operands = [x.repeat(8, *[1] * (x.ndim - 1)) for x in operands]
    whole = peak_mib(lambda: with_gradients(operation, operands), torch.device("cpu"))
    monkeypatch.setattr(neighbourhood, "GATHERED_BYTES", 1)
    assert peak_mib(lambda: with_gradients(operation, operands), torch.device("cpu")) < whole / 2


def test_images_are_taken_as_many_at_a_time_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    monkeypatch.setattr(neighbourhood, "GATHERED_BYTES", 3 * 4 * 9 * 30 * 8)
    result = in_chunks(watch, random(8, 4, 5, 6), kernel_size=3, channels=4)
    assert seen == [3, 3, 2]
    assert torch.equal(result, random(8, 4, 5, 6))
