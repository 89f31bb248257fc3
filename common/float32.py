"""What float32 means in convolutions and matrix products: processors may round their inputs to fewer bits unless told not to."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch

Float32 = Literal["ieee", "tf32"]
"""Of the inputs to products: all 24 bits of their mantissas, or on a GPU 11 of them, which is faster."""

_backends: Any = torch.backends
_ON_GPU = (_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul)
_ON_CPU = (_backends.mkldnn.conv, _backends.mkldnn.rnn, _backends.mkldnn.matmul)

T = TypeVar("T")


def set_float32(meaning: Float32) -> None:
    """Say what float32 means in this process from here on; on a CPU it is always that of IEEE 754."""
    # PyTorch has two interfaces and refuses to answer where they disagree: the older one goes first, for it changes the newer.
    _backends.cudnn.allow_tf32 = meaning == "tf32"
    torch.set_float32_matmul_precision("highest" if meaning == "ieee" else "high")
    for each in _ON_GPU:
        each.fp32_precision = meaning
    for each in _ON_CPU:
        each.fp32_precision = "ieee"


@contextmanager
def float32_as(meaning: Float32) -> Generator[None]:
    """Say what float32 means within; a gradient must be taken there too, and a captured graph keeps what was said then.

    It holds for the whole process: threads that compute at the same time must agree.
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
    """Say what it means now."""
    return "tf32" if _backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _answer(ask: Callable[[], T], untouched: T) -> T:
    """What the older interface says, or said before the newer one alone was used."""
    try:
        return ask()
    except RuntimeError:
        return untouched
