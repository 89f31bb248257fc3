"""What float32 means is said to all of PyTorch's switches, and only within."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from common.float32 import float32_as, float32_meaning, set_float32

backends: Any = torch.backends


def switches() -> dict[str, object]:
    asked: dict[str, Callable[[], object]] = {
        "cudnn.conv": lambda: backends.cudnn.conv.fp32_precision,
        "cudnn.rnn": lambda: backends.cudnn.rnn.fp32_precision,
        "cuda.matmul": lambda: backends.cuda.matmul.fp32_precision,
        "mkldnn.conv": lambda: backends.mkldnn.conv.fp32_precision,
        "mkldnn.matmul": lambda: backends.mkldnn.matmul.fp32_precision,
        "cudnn.allow_tf32": lambda: backends.cudnn.allow_tf32,
        "cuda.matmul.allow_tf32": lambda: backends.cuda.matmul.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision,
    }
    return {name: answer(ask) for name, ask in asked.items()}


def answer(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except RuntimeError:
        return "refused: the interfaces disagree"


IEEE = dict.fromkeys(("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul"), "ieee") | {
    "cudnn.allow_tf32": False,
    "cuda.matmul.allow_tf32": False,
    "matmul_precision": "highest",
}
TF32 = IEEE | {
    **dict.fromkeys(("cudnn.conv", "cudnn.rnn", "cuda.matmul"), "tf32"),
    "cudnn.allow_tf32": True,
    "cuda.matmul.allow_tf32": True,
    "matmul_precision": "high",
}


def newer_alone() -> None:
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "ieee"


def everything_rounded() -> None:
    torch.set_float32_matmul_precision("medium")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with float32_as("ieee"):
        pass  # fails if what is there now cannot be kept
    with float32_as("ieee"):
        yield


@pytest.mark.parametrize("base", [newer_alone, everything_rounded, lambda: None])
def test_all_switches_agree_within_and_are_as_before_afterwards(base: Callable[[], None]) -> None:
    base()
    before = switches()
    with float32_as("ieee"):
        assert switches() == IEEE
        with float32_as("tf32"):
            assert switches() == TF32
            assert float32_meaning() == "tf32"
        assert switches() == IEEE
        assert float32_meaning() == "ieee"
    assert switches() == before


def test_an_error_within_changes_nothing_afterwards() -> None:
    everything_rounded()
    before = switches()
    with pytest.raises(ZeroDivisionError), float32_as("ieee"):
        _ = 1 / 0
    assert switches() == before


def test_a_process_can_say_it_for_good() -> None:
    set_float32("tf32")
    assert switches() == TF32
    set_float32("ieee")
    assert switches() == IEEE


def test_a_cpu_multiplies_with_all_bits_whatever_was_allowed_before() -> None:
    left, right = (torch.rand(64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = left.double() @ right.double()
    everything_rounded()
    for meaning in ("ieee", "tf32"):
        with float32_as(meaning):
            assert ((left @ right).double() - exact).abs().max() < 1e-5 * exact.abs().max()
