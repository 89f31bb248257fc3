"""The Triton kernels against the plain formulations: on a GPU where there is one, otherwise in Triton's interpreter.

The interpreter must be chosen before Triton is imported, so the tests of kernels then run in a process of their own, which
`test_kernels_in_the_interpreter` starts.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.ops import triton_fit, triton_ops
from models.ops.neighbourhood import aggregation
from models.ops.pairwise import PairwiseWeights, pairwise_core
from models.ops.triton_fit import Launch
from tests.models.ops.kernels import (
    INTERPRETED,
    ON_GPU,
    draw,
    in_a_process,
    kernels,
    needs_triton,
    pairwise_operands,
)

TOLERANCES = {torch.float32: 2e-6, torch.float16: 0.005, torch.bfloat16: 0.03}
"""Largest error of an output or a gradient by its largest entry, against the same in float64."""
MEAN_TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.03}
"""The same in the root mean square, for many random numbers: a hidden number near zero may pass the ReLU in one type and not in the
other, so that single gradients differ by much more than rounding (1.8e-2 of the largest, measured on an H100 in float32), whichever
of the two is right."""


def with_gradients(call: Any, inputs: list[Tensor]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = call(*inputs)
    upstream = draw(*output.shape, seed=9).to(output.dtype)
    return [output, *torch.autograd.grad(output, inputs, upstream)]


def require_near(ours: list[Tensor], expected: list[Tensor], dtype: torch.dtype, *, in_the_mean: bool = False) -> None:
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert a.dtype == dtype
        assert a.shape == b.shape
        difference = a.cpu().double() - b
        largest, mean = difference.abs().max() / b.abs().max(), difference.norm() / b.norm()
        error, bound = (mean, MEAN_TOLERANCES[dtype]) if in_the_mean else (largest, TOLERANCES[dtype])
        assert error <= bound, f"result {i}: {error:.1e}"


def compare_pairwise(inputs: list[Tensor], weights: PairwiseWeights, k: int, *, in_the_mean: bool = False) -> None:
    dtype = inputs[0].dtype
    ours = with_gradients(lambda *x: triton_ops.pairwise(*x, *weights, k)[0], inputs)
    exact = PairwiseWeights(*(x.cpu().double() for x in weights))
    upstream = draw(*ours[0].shape, seed=9).to(dtype).cpu().double()
    doubles = [x.detach().cpu().double().requires_grad_() for x in inputs]
    expected = pairwise_core(*doubles, exact, kernel_size=k)
    results = [expected, *torch.autograd.grad(expected, doubles, upstream)]
    require_near(ours, results, dtype, in_the_mean=in_the_mean)


def compare_aggregation(values: Tensor, weights: Tensor, k: int) -> None:
    dtype = values.dtype
    ours = with_gradients(lambda *x: triton_ops.aggregation(*x, k), [values, weights])
    upstream = draw(*ours[0].shape, seed=9).to(dtype).cpu().double()
    doubles = [x.detach().cpu().double().requires_grad_() for x in (values, weights)]
    expected = aggregation(*doubles, k)
    require_near(ours, [expected, *torch.autograd.grad(expected, doubles, upstream)], dtype)


@kernels
@pytest.mark.parametrize(
    ("n", "h", "w", "k", "r", "d", "c", "launch"),
    [
        (2, 5, 3, 3, 16, 8, 32, Launch(8, 4, 4)),  # 8 maps, repeated to 16
        (1, 4, 6, 3, 4, 2, 16, None),  # the first stage: 4 relation channels and 2 maps
        (
            1,
            3,
            4,
            5,
            12,
            16,
            32,
            Launch(4, 4, 4, taps=2),
        ),  # relation channels no power of two; every pixel its own border class
        (1, 3, 7, 3, 32, 32, 64, Launch(4, 8, 4)),  # more maps than 16
        (1, 3, 2, 3, 48, 16, 32, Launch(4, 4, 4)),  # hidden channels in two parts, the second of them not full
        (1, 2, 2, 3, 128, 64, 128, Launch(4, 4, 4, taps=4)),  # hidden channels in four parts
    ],
)
def test_pairwise(
    n: int,
    h: int,
    w: int,
    k: int,
    r: int,
    d: int,
    c: int,
    launch: Launch | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if launch:
        monkeypatch.setattr(triton_fit, "pairwise_launch", lambda *_: launch)
    compare_pairwise(*pairwise_operands(n, h, w, k, r, d, c), k)


@kernels
def test_pairwise_on_a_map_larger_than_its_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_fit, "pairwise_launch", lambda *_: Launch(4, 8, 4, taps=4))
    compare_pairwise(*pairwise_operands(1, 6, 7, 5, 4, 2, 16), 5)


@kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("taps", [1, 2])
def test_pairwise_in_16_bits(dtype: torch.dtype, taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, float16 stands in for bfloat16, in which searches run: it rounds less, but the code is the same."""
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices as integers")
    monkeypatch.setattr(triton_fit, "pairwise_launch", lambda *_: Launch(4, 4, 4, taps))
    compare_pairwise(*pairwise_operands(1, 3, 4, 3, 16, 8, 16, dtype=dtype), 3, in_the_mean=True)


@kernels
def test_pairwise_survives_large_logits() -> None:
    inputs, (first, second, table) = pairwise_operands(1, 3, 4, 3, 16, 8, 16)
    y, _ = triton_ops.pairwise(*inputs, first, 1e4 * second, table, 3)
    assert torch.isfinite(y).all()


@kernels
@pytest.mark.parametrize(
    ("n", "c", "g", "h", "w", "k", "tile"),
    [
        (2, 4, 2, 3, 4, 3, None),
        (1, 3, 1, 3, 4, 5, (4, 4)),  # three channels, padded to four
        (1, 2, 1, 4, 9, 7, (4, 16)),
        (1, 18, 1, 4, 2, 3, (4, 8)),  # more channels than one program takes
        (1, 4, 4, 1, 1, 1, (4, 4)),
    ],
)
def test_aggregation(
    n: int, c: int, g: int, h: int, w: int, k: int, tile: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        monkeypatch.setattr(triton_fit, "aggregation_launch", lambda _: Launch(*tile, 4))
    values = draw(n, c, w, h, seed=1).mT  # not contiguous
    compare_aggregation(values, draw(n, g, k * k, h * w, seed=2), k)


@kernels
def test_aggregation_in_bfloat16() -> None:
    values, weights = draw(1, 4, 3, 4, seed=1, dtype=torch.bfloat16), draw(1, 2, 9, 12, seed=2, dtype=torch.bfloat16)
    compare_aggregation(values, weights, 3)


@kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of opcheck's own
def test_operators_keep_the_rules_of_torch_library() -> None:
    """Schema, registration for autograd, shapes without data, and tracing as under torch.compile."""
    inputs, weights = pairwise_operands(1, 2, 2, 1, 4, 2, 16)
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    torch.library.opcheck(triton_ops.pairwise, (*inputs, *weights, 1))
    values, maps = draw(1, 2, 2, 2, seed=1).requires_grad_(), draw(1, 1, 1, 4, seed=2).requires_grad_()
    torch.library.opcheck(triton_ops.aggregation, (values, maps, 1))


@pytest.mark.skipif(not ON_GPU, reason="no GPU")
def test_dispatch_on_a_gpu() -> None:
    inputs, weights = pairwise_operands(2, 12, 11, 7, 16, 8, 64)
    ours = with_gradients(lambda *x: pairwise_core(*x, weights, kernel_size=7), inputs)
    plain = with_gradients(lambda *x: pairwise_core(*x, weights, kernel_size=7, tile_bytes=2**20), inputs)
    require_near(ours, [x.cpu().double() for x in plain], torch.float32, in_the_mean=True)
    assert triton_ops.pairwise_fits(*inputs, *weights, 7)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = pairwise_core(*inputs, weights, kernel_size=7)
    graph.replay()
    assert torch.equal(captured, ours[0])


@pytest.mark.skipif(not ON_GPU, reason="no GPU")
@pytest.mark.parametrize(("r", "k", "size"), [(4, 3, 112), (16, 7, 56), (32, 7, 28), (64, 7, 14), (128, 7, 7)])
def test_stages_of_san_on_a_gpu(r: int, k: int, size: int) -> None:
    inputs, weights = pairwise_operands(2, size, size, k, r, r // 2, 4 * r)
    assert triton_ops.pairwise_fits(*inputs, *weights, k)
    compare_pairwise(inputs, weights, k, in_the_mean=True)


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the kernels are tested in this process")
def test_kernels_in_the_interpreter() -> None:
    files = [__file__, str(Path(__file__).with_name("test_triton_choice.py"))]
    chosen = "test_pairwise or test_aggregation or test_operators or test_measured"
    result = in_a_process(["-m", "pytest", *files, "-k", chosen, "-p", "no:xdist", "-p", "no:cacheprovider"])
    assert result.returncode == 0, result.stdout + result.stderr


def fits(
    r: int, d: int, c: int, dtype: torch.dtype, device: str, capability: tuple[int, int], compiles: bool = True
) -> tuple[bool, bool]:
    """What is said of the pairwise and the aggregation kernels, asked with tensors that hold nothing."""
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        patch.setattr(triton_ops, "HAS_TRITON", True)
        patch.setattr(triton_ops, "kernels_fit", lambda *_: compiles)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        inputs = empty(2, 9, 8, r), empty(2, 9, 8, r), empty(2, 9, 8, c)
        weights = empty(r, r), empty(r, d), empty(49, 7, 7, r)
        attends = triton_ops.pairwise_fits(*inputs, *weights, 7)
        return attends, triton_ops.aggregation_fits(empty(2, c, 9, 8), empty(2, d, 49, 72), 7)


@pytest.mark.parametrize(
    ("r", "d", "c", "dtype", "device", "capability", "expected"),
    [
        (16, 8, 64, torch.float32, "cuda", (9, 0), (True, True)),
        (128, 64, 512, torch.bfloat16, "cuda", (8, 0), (True, True)),
        (12, 4, 32, torch.float16, "cuda", (9, 0), (True, True)),
        (16, 8, 64, torch.float32, "cpu", (9, 0), (False, False)),
        (16, 8, 64, torch.float64, "cuda", (9, 0), (False, False)),
        (256, 64, 512, torch.float32, "cuda", (9, 0), (False, True)),
        (128, 128, 1024, torch.float32, "cuda", (9, 0), (False, True)),
        (16, 6, 48, torch.float32, "cuda", (9, 0), (False, True)),
        (16, 2, 8, torch.float32, "cuda", (9, 0), (False, True)),
        (16, 8, 64, torch.float32, "cuda", (7, 5), (False, False)),
    ],
)
def test_what_kernels_are_made_for(
    r: int, d: int, c: int, dtype: torch.dtype, device: str, capability: tuple[int, int], expected: tuple[bool, bool]
) -> None:
    assert fits(r, d, c, dtype, device, capability) == expected
    assert fits(r, d, c, dtype, device, capability, compiles=False) == (False, False)


@pytest.mark.parametrize(
    ("shared", "spills", "match"),
    [
        (458_752, None, "it needs 458752 bytes of shared memory, 232448 are available"),
        (232_449, None, "232449"),
        (232_448, triton_fit.MAX_SPILLS + 1, "it spills 201 registers of a thread to memory, at most 200 are allowed"),
        (232_448, triton_fit.MAX_SPILLS, "^$"),
        (0, 0, "^$"),
    ],
)
def test_what_a_compiled_kernel_lacks(shared: int, spills: int | None, match: str) -> None:
    assert re.search(match, triton_fit.shortage(shared, 232_448, spills))


def test_without_triton_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "HAS_TRITON", False)
    x = torch.empty(1, 4, 4, 4)
    assert not triton_ops.aggregation_fits(x, x.view(1, 1, 4, 16), 2)


def test_a_cpu_takes_the_plain_formulations(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(triton_ops, "_start", fail)
    inputs, weights = pairwise_operands(1, 4, 4, 3, 16, 8, 64)
    pairwise_core(*(x.cpu() for x in inputs), PairwiseWeights(*(x.cpu() for x in weights)), kernel_size=3)
    aggregation(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 9, 16), 3)


def test_models_work_where_triton_is_missing() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch, models
from models.ops import triton_ops
from models.ops.neighbourhood import aggregation
assert not triton_ops.HAS_TRITON
aggregation(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 9, 16), 3)
assert not {"models.ops.triton_tiles", "models.ops.triton_aggregation"} & set(sys.modules)
"""
    result = in_a_process(["-c", code])
    assert result.returncode == 0, result.stderr


SHARED_MEMORY = {80: 166_912, 86: 101_376, 90: 232_448}
"""Bytes that a block of these GPUs can have at most: A100, RTX 30, H100."""


@needs_triton
@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
def test_kernels_of_the_published_networks_fit(tmp_path: Path) -> None:
    """Forward and backward, compiled as on those GPUs; the compiler comes with Triton and needs none."""
    result = in_a_process(["-m", "tests.models.ops.compiled"], TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum(each["default"] for each in kernels) == (2 * 2 + 3) * (
        6 + 3
    )  # stages on two GPUs or one, kernels in both types
    assert sum(not each["default"] for each in kernels) == 4 + 7  # of the last stage, in float32 and bfloat16
    for kernel in kernels:
        for available in (SHARED_MEMORY[kernel["capability"]], min(SHARED_MEMORY.values())):
            assert not triton_fit.shortage(kernel["shared"], available, kernel["stack"] // 4), kernel
