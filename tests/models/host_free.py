"""Refuses tensors of the host in a pass through a network on the device `meta`."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models

MODELS = Path(models.__file__).parent


COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class MovesError(Exception):
    """Something is moved between host and device; the message names the line."""


class HostFree(TorchDispatchMode):
    """Refuse operations that take what comes from the host's memory to the device.

    A tensor on the device that no operation made was made by `torch.tensor` or an index of Python numbers, out of the host's data.

    Args:
        given: what is on the device from the beginning.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {x.untyped_storage()._cdata: x for x in given}  # kept, so that no other storage takes an address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        taken = tensors((args, kwargs))
        result = func(*args, **(kwargs or {}))
        moved = [x for x in taken if self.is_moved(x, func)]
        if moved and any(x.is_meta for x in [*taken, *tensors(result)]):
            shapes = ", ".join(str(tuple(x.shape)) for x in moved)
            raise MovesError(f"{func} takes {shapes} from the host, {innermost_line()}")
        self.known.update((x.untyped_storage()._cdata, x) for x in tensors(result))
        return result

    def is_moved(self, x: Tensor, func: Any) -> bool:
        if x.is_meta:
            return x.untyped_storage()._cdata not in self.known
        return x.ndim > 0 or func in COPIES  # a number from the host is part of the call


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def innermost_line() -> str:
    ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(MODELS)]
    return f"at {Path(ours[-1].filename).name}:{ours[-1].lineno}: {ours[-1].line}" if ours else "outside of models"


def differentiate(function: Callable[[Tensor], Tensor], images: Tensor, *given: Tensor) -> Tensor:
    """Gradient of a function's sum, which uses what is given."""
    leaf = images.detach().requires_grad_()
    with HostFree([leaf, *given]):
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return gradient
