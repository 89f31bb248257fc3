"""What float32 means in convolutions and matrix products: processors may round the inputs to fewer bits unless told not to."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch

Float32 = Literal["ieee", "tf32"]
"""Whether products use all 24 bits of their inputs' mantissas ("ieee") or, on a GPU, 11 of them, which is faster ("tf32")."""

_backends: Any = torch.backends
_ON_GPU = (_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul)
_ON_CPU = (_backends.mkldnn.conv, _backends.mkldnn.rnn, _backends.mkldnn.matmul)

T = TypeVar("T")


def set_float32(meaning: Float32) -> None:
    """Set what float32 means in this process from now on; on a CPU it is always that of IEEE 754."""
    # PyTorch has two interfaces and raises an error if they disagree. The older one is set first, because it changes the newer one.
    _backends.cudnn.allow_tf32 = meaning == "tf32"
    torch.set_float32_matmul_precision("highest" if meaning == "ieee" else "high")
    for each in _ON_GPU:
        each.fp32_precision = meaning
    for each in _ON_CPU:
        each.fp32_precision = "ieee"


@contextmanager
def float32_as(meaning: Float32) -> Generator[None]:
    """Set what float32 means inside a block or function, for the whole process: threads that compute at the same time must agree.

    A gradient must be computed in the same block as its forward pass. A captured graph uses the meaning it was captured with.
    """
    convolutions = _answer(lambda: _backends.cudnn.allow_tf32, True)
    products = _answer(torch.get_float32_matmul_precision, "highest")
    before = [each.fp32_precision for each in (*_ON_GPU, *_ON_CPU)]
    set_float32(meaning)
    try:
        yield
    finally:
        _backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        for each, value in zip((*_ON_GPU, *_ON_CPU), before, strict=True):
            each.fp32_precision = value


def float32_meaning() -> Float32:
    """Return what float32 means now."""
    return "tf32" if _backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _answer(ask: Callable[[], T], untouched: T) -> T:
    """The older interface's answer; its initial one if only the newer interface was used since."""
    try:
        return ask()
    except RuntimeError:
        return untouched
