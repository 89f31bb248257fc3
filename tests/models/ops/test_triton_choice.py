"""How the launch of a kernel is chosen: measured once for each shape, stored, and never at the price of a result or of a run.

There is no GPU where most of this runs, so times are given; what is compared and stored is real. `test_measured_*` run kernels, in
the process that `test_kernels_in_the_interpreter` starts.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.ops import triton_choice, triton_fit, triton_ops
from models.ops.triton_choice import Choice, Times, choice_of, chosen, kernels_fit
from models.ops.triton_fit import Kernel, Launch, aggregation_kernels, launches, pairwise_kernels
from tests.models.ops.kernels import DEVICE, INTERPRETED, ON_GPU, kernels, needs_triton, pairwise_operands

GPU = torch.device("cuda", 0)
ours = aggregation_kernels((2, 8, 5, 12), 2, 3)
SLOW, FAST = ours[0].launch, ours[0].launch._replace(warps=8)
TIMES: Times = ((FAST, 0.25), (SLOW, 0.5))


def attention(relation: int = 4, channels: int = 16, size: int = 3) -> tuple[Kernel, Kernel, Kernel]:
    """Kernels of operands that lie beside each other."""
    merged = torch.empty(1, size, size, 2 * relation + channels, device="meta")
    second = torch.empty(relation, relation // 2, device="meta")
    return pairwise_kernels(*merged.split([relation, relation, channels], -1), second, 3)


class Gpu:
    """What would be measured, and what was asked."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.error: Exception | None = None

    def measure(self, kernel: Kernel, *_: object) -> Times:
        self.measured.append(kernel.name)
        if self.error:
            raise self.error
        return TIMES


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    """A GPU on which everything fits, and a new process beside an empty cache."""
    gpu = Gpu()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(triton_choice, "why_not", lambda *_: "")
    monkeypatch.setattr(triton_choice, "measured", gpu.measure)
    another_process(monkeypatch)
    return gpu


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_choice, "_choices", {})
    monkeypatch.setattr(triton_choice, "_seconds", [])
    monkeypatch.setattr(triton_choice, "SECONDS", 30.0)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels have no hash")
def test_a_choice_is_measured_once_for_each_kernel_and_kept_for_other_processes(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(2):
        assert kernels_fit(ours, torch.float32, GPU)
    assert gpu.measured == [kernel.name for kernel in ours]
    assert choice_of(ours[0], torch.float32, GPU) == Choice(FAST, TIMES)
    assert chosen(ours[1], torch.float32, GPU) == ours[1]._replace(launch=FAST)
    assert len(list(tmp_path.rglob("*.launches.json"))) == 3
    another_process(monkeypatch)
    assert kernels_fit(ours, torch.float32, GPU)
    assert choice_of(ours[0], torch.float32, GPU) == Choice(FAST, TIMES)
    assert len(gpu.measured) == 3


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels have no hash")
@pytest.mark.parametrize("what", ["GPU", "type", "shape", "version", "candidates", "spoilt"])
def test_what_was_measured_for_something_else_is_measured_again(
    what: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel, dtype = ours[0], torch.float32
    assert kernels_fit((kernel,), dtype, GPU)
    another_process(monkeypatch)
    match what:
        case "GPU":
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
        case "type":
            dtype = torch.bfloat16
        case "shape":
            kernel = kernel._replace(numbers=(6, 12))
        case "version":
            monkeypatch.setattr("triton.__version__", "0")
        case "candidates":
            monkeypatch.setattr(triton_choice, "launches", lambda *_: [SLOW])
        case _:
            (file,) = tmp_path.rglob("*.launches.json")
            file.write_text("[[")
    assert kernels_fit((kernel,), dtype, GPU)
    assert len(gpu.measured) == 2


def test_where_measuring_fails_the_default_launch_stays_and_one_line_says_so(
    gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.error = RuntimeError("CUDA out of memory")
    for _ in range(2):
        assert kernels_fit(ours[:1], torch.float32, GPU)
    assert choice_of(ours[0], torch.float32, GPU) == Choice(SLOW)
    assert chosen(ours[0], torch.float32, GPU) == ours[0]
    (line,) = caplog.messages
    assert "aggregation_forward" in line
    assert "could not be measured or stored on cuda:0: CUDA out of memory" in line


def test_where_nothing_can_be_stored_the_fastest_is_still_chosen(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_choice, "_place", lambda *_: 1 / 0)
    assert kernels_fit(ours[:1], torch.float32, GPU)
    assert choice_of(ours[0], torch.float32, GPU).launch == FAST


def test_measuring_ends_after_some_seconds_of_a_process(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_choice, "_seconds", [30.0])
    assert kernels_fit(ours[:1], torch.float32, GPU)
    assert choice_of(ours[0], torch.float32, GPU) == Choice(SLOW)
    another_process(monkeypatch)
    assert kernels_fit(ours[:1], torch.float32, GPU)
    assert len(gpu.measured) == 1


def test_a_compiler_takes_the_answer_as_constant() -> None:
    def marked() -> None: ...

    assert vars(kernels_fit) == vars(torch.compiler.assume_constant_result(marked))


def test_modes_of_the_caller_do_not_reach_what_is_measured(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []

    def measure(kernel: Kernel, *_: object) -> Times:
        made.append(torch.ones(1))
        return TIMES

    monkeypatch.setattr(triton_choice, "measured", measure)
    with FakeTensorMode(), torch.inference_mode():
        assert kernels_fit(ours[:1], torch.float32, GPU)
    assert type(made[0]) is torch.Tensor
    assert not made[0].is_inference()


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
def test_launches_are_compiled_ahead_even_if_one_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from triton.runtime.driver import driver  # noqa: PLC0415  # Triton may be missing

    from tests.models.ops.compiled import Absent  # noqa: PLC0415

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", Absent(90))
    asked: list[str] = []
    compile_kernel = triton_choice.compile_kernel

    def note(kernel: Kernel, dtype: torch.dtype) -> object:
        asked.append(kernel.name)
        return compile_kernel(kernel, dtype)

    monkeypatch.setattr(triton_choice, "compile_kernel", note)
    impossible = ours[0]._replace(launch=Launch(3, 8, 4))
    triton_choice._compile([impossible, *ours], torch.float32)
    assert asked == [kernel.name for kernel in (impossible, *ours)]
    stored = {file.stem for file in tmp_path.rglob("*.cubin")}
    names = {kernel.name for kernel in ours}
    assert len(names - stored) <= 1, (
        "under load Triton's threads lose one in some hundred runs; it is compiled when asked for"
    )
    for kernel in ours:
        compile_kernel(kernel, torch.float32)
    assert {file.stem for file in tmp_path.rglob("*.cubin")} == names
    with pytest.raises(Exception, match="tile_of_program"):
        compile_kernel(impossible, torch.float32)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_compiled_is_what_starts(beside: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In bfloat16, the neighbours of the first stage lie 8 bytes behind its centres."""
    from triton.runtime.driver import driver  # noqa: PLC0415  # Triton may be missing

    from tests.models.ops.compiled import Absent  # noqa: PLC0415

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", Absent(90))
    kernel, *_ = attention()
    if not beside:
        kernel = kernel._replace(numbers=(4, 4, 16, 3, 3))
    compiled = triton_fit.compile_kernel(kernel, torch.bfloat16)
    tensors = triton_choice.operands(kernel, 1, torch.bfloat16, torch.device("cpu"))
    assert [x.data_ptr() % 16 for x in tensors[:3]] == [0, 8 if beside else 0, 0]
    arguments = kernel.all_constants | kernel.launch.options
    assert kernel.function.warmup(*tensors, *kernel.numbers, grid=(1,), **arguments) is compiled
    aligned = kernel.function.warmup(*(x.clone() for x in tensors), *kernel.numbers, grid=(1,), **arguments)
    assert (aligned is compiled) != beside


@needs_triton
@pytest.mark.skipif(ON_GPU, reason="they can be compiled")
def test_what_cannot_be_compiled_is_not_used_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Here for want of a driver."""
    for _ in range(2):
        assert not kernels_fit(ours[:1], torch.float32, GPU)
    (line,) = caplog.messages
    assert "aggregation_forward" in line
    assert "is not used on cuda:0: " in line


def test_nothing_is_measured_while_a_graph_is_captured(
    gpu: Gpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Kernel] = []
    monkeypatch.setattr(triton_choice, "compile_kernel", lambda kernel, _: compiled.append(kernel))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not kernels_fit(ours, torch.float32, GPU)
    assert "captured" in caplog.text
    assert not compiled
    assert not gpu.measured
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert kernels_fit(ours, torch.float32, GPU)  # the answer during capture was not remembered
    assert len(gpu.measured) == 3
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert kernels_fit(ours, torch.float32, GPU)
    assert len(gpu.measured) == 3


@kernels
@pytest.mark.parametrize("part", range(3))
def test_measured_launches_agree_with_the_default_or_are_left_out(
    part: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Half(Launch):
        """Leaves half of the tiles to nobody."""

        def programs(self, images: int, height: int, width: int) -> int:
            return super().programs(images, height, width) // 2

    kernel = attention(size=2)[part]
    right, wrong = Launch(4, 4, 4, taps=2), Half(8, 8, 8)
    monkeypatch.setattr(triton_choice, "launches", lambda *_: [kernel.launch, right, wrong])
    monkeypatch.setattr(triton_choice, "PIXELS", 8)
    monkeypatch.setattr(triton_choice, "why_not", lambda *_: "")
    times = iter([2.0, 1.0, 0.0])
    monkeypatch.setattr(triton_choice, "milliseconds", lambda _: next(times))
    assert triton_choice.measured(kernel, torch.float32, DEVICE) == ((right, 1.0), (kernel.launch, 2.0))
    (line,) = caplog.messages
    assert "computes something else" in line


@kernels
def test_measured_operands_are_as_large_as_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, (first, second, table) = pairwise_operands(2, 3, 4, 3, 16, 8, 32)
    forward, centres, neighbours = pairwise_kernels(*inputs, second, 3)
    sizes = dict(zip(forward.tensors, triton_choice.operands(forward, 2, torch.float32, DEVICE), strict=True))
    ours = {name: len(x) for name, x in sizes.items()}
    merged = 2 * 3 * 4 * 64
    assert ours == {
        "x1": merged, "x2": merged - 16, "x3": merged - 32, "first": first.numel(), "second": second.numel(),
        "table": table.numel(), "result": inputs[2].numel(), "logsumexp": 2 * 12 * 16,
    }  # fmt: skip
    assert sizes["x2"].data_ptr() == sizes["x1"].data_ptr() + 16 * 4
    for kernel in (centres, neighbours):
        by_name = dict(zip(kernel.tensors, triton_choice.operands(kernel, 2, torch.bfloat16, DEVICE), strict=True))
        assert by_name["row_sums"].dtype == torch.float32
        assert by_name["gradient"].dtype == torch.bfloat16
        assert len(by_name["gradient"]) == inputs[2].numel()


@kernels
def test_measured_choices_are_what_operators_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Launch] = []

    class Noted(Launch):
        def programs(self, images: int, height: int, width: int) -> int:
            started.append(self)
            return super().programs(images, height, width)

    inputs, weights = pairwise_operands(1, 2, 3, 3, 4, 2, 16)
    forward, *_ = pairwise_kernels(*inputs, weights.second, 3)
    before, _ = triton_ops.pairwise(*inputs, *weights, 3)
    monkeypatch.setitem(triton_choice._choices, (forward, torch.float32, inputs[0].device), Choice(Noted(4, 4, 4, 2)))
    after, _ = triton_ops.pairwise(*inputs, *weights, 3)
    assert started == [Launch(4, 4, 4, 2)]
    assert (after - before).abs().max() <= 1e-6 * before.abs().max()


@pytest.mark.skipif(not ON_GPU, reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("r", "k", "size"), [(4, 3, 112), (64, 7, 14), (128, 7, 7)])
def test_all_launches_agree_on_a_gpu(r: int, k: int, size: int, dtype: torch.dtype, caplog: Any) -> None:
    inputs, weights = pairwise_operands(1, size, size, k, r, r // 2, 4 * r, dtype=dtype)
    for kernel in pairwise_kernels(*inputs, weights.second, k):
        assert kernel.launch in dict(triton_choice.measured(kernel, dtype, inputs[0].device))
    assert not caplog.messages


@pytest.mark.skipif(not ON_GPU, reason="no GPU")
def test_a_gpu_decides_and_remembers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    another_process(monkeypatch)
    inputs, weights = pairwise_operands(2, 28, 28, 7, 32, 16, 128)
    three = pairwise_kernels(*inputs, weights.second, 7)
    assert kernels_fit(three, torch.float32, inputs[0].device)
    choices = [choice_of(kernel, torch.float32, inputs[0].device) for kernel in three]
    for kernel, choice in zip(three, choices, strict=True):
        assert choice.launch == choice.times[0][0]
        assert kernel.launch in dict(choice.times)
    assert not caplog.messages
    another_process(monkeypatch)
    monkeypatch.setattr(triton_choice, "measured", lambda *_: pytest.fail("measured again"))
    assert kernels_fit(three, torch.float32, inputs[0].device)
    assert [choice_of(kernel, torch.float32, inputs[0].device) for kernel in three] == choices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("relation", "channels"), [(4, 16), (16, 64), (32, 128), (64, 256), (128, 512)])
def test_there_is_a_choice_but_a_small_one(relation: int, channels: int, dtype: torch.dtype) -> None:
    for kernel in (*attention(relation, channels), *ours):
        all_launches = launches(kernel, dtype)
        assert all_launches[0] == kernel.launch
        assert len(set(all_launches)) == len(all_launches) <= 6
        assert len(all_launches) > 2 or kernel.name == "pairwise_backward_neighbours"
        assert max(triton_fit.numbers_of_thread(kernel, each) for each in all_launches) <= 128
        assert json.loads(json.dumps(all_launches)) == [list(each) for each in all_launches]
