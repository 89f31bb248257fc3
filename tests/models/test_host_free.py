"""No forward or backward pass moves anything between host and device: such a pass can be captured as a CUDA graph and never waits.

The pretended device is "meta", whose tensors hold nothing: what needs a value of them raises, and what lies in the host's memory
shows by its device.
"""

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
from models import Classifier, ModelCard

MODELS = Path(models.__file__).parent
DEEPER = re.compile(r"(26|38|50|101|152|san15|san19|small|base)")
"""Of networks that have more of the same layers."""
SMALL = [name for name in models.names() if "mini" in name] + ["se_resnet34", "resnet18"]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("san_mini_pairwise", {"relation": r}) for r in ("summation", "concatenation", "hadamard", "dot")),
    *(("san_mini_pairwise", {"position": p, "transforms": "all_tied"}) for p in ("absolute", "none")),
    *(("san_mini_patchwise", {"relation": r}) for r in ("star", "clique")),
    *(("aa_resnet_mini", {"positions": p}) for p in ("none", "sine", "coord")),
    *(("dat_mini", {"position": p}) for p in ("fixed", "depthwise", "none")),
    ("dat_mini", {"offset_range": 0.0}),
]
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
FRESH = torch.ops.aten.lift_fresh.default
"""Called with the tensor that `torch.tensor` and an index of Python numbers make out of the host's data."""


class MovesError(Exception):
    """Something is moved between host and device; the message names the line."""


class HostFree(TorchDispatchMode):
    """Refuse operations that take tensors from the host's memory to the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_host = [x for x in given if x.device.type == "cpu" and (x.ndim or func in COPIES)]
        result = func(*args, **(kwargs or {}))
        on_device = any(isinstance(x, Tensor) and x.is_meta for x in [*given, *tree_leaves(result)])
        if on_device and (on_host or func is FRESH):
            shapes = ", ".join(str(tuple(x.shape)) for x in on_host or given)
            raise MovesError(f"{func} takes {shapes} from the host, {innermost_line()}")
        return result


def innermost_line() -> str:
    ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(MODELS)]
    return f"at {Path(ours[-1].filename).name}:{ours[-1].lineno}: {ours[-1].line}" if ours else "outside of models"


def differentiate(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with HostFree():
        leaf = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return gradient


def card(name: str) -> ModelCard:
    side = models.spec(name).input_shape[1]
    preprocessing = models.Preprocessing(resize=side, crop=side)
    return ModelCard(architecture=name, classes=tuple("abcde"), preprocessing=preprocessing)


def on_device(name: str, **options: Any) -> Classifier:
    with torch.device("meta"):
        network = models.create(name, num_classes=5, **options)
        return Classifier(network, card(name)).eval().requires_grad_(False)


def empty(name: str) -> Tensor:
    return torch.empty(2, *models.spec(name).input_shape, device="meta")


@pytest.mark.parametrize("name", [name for name in models.names() if not DEEPER.search(name)])
def test_networks_as_they_are(name: str) -> None:
    assert differentiate(on_device(name), empty(name)).shape == empty(name).shape


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_of_the_families(name: str, options: dict[str, Any]) -> None:
    differentiate(on_device(name, **options), empty(name))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_folded_copies(name: str, precision: models.Precision) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create(name, num_classes=5).eval()
    folded = models.fold(Classifier(network, card(name)).eval(), precision)
    differentiate(folded.to("meta"), empty(name))


def test_a_choice_among_the_classes() -> None:
    classifier = on_device("resnet_mini").restricted((0, 3))
    differentiate(classifier, empty("resnet_mini"))


HOST = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: x + torch.ones(4), RuntimeError),
        (lambda x: x + torch.ones(4).to(x.device), MovesError),
        (lambda x: x * torch.tensor(2.0).to(x.device), MovesError),
        (lambda x: x[:, [0, 1]], MovesError),
        (lambda x: x[:, (0, 1)], MovesError),
        (lambda x: x[HOST], MovesError),
        (lambda x: x * x.new_tensor([1.0, 2.0, 3.0, 4.0]), MovesError),
        (lambda x: x * torch.tensor([2.0], device=x.device), MovesError),
        (lambda x: x * x.detach().sum().item(), RuntimeError),
        (lambda x: x if x.detach().sum() > 0 else -x, RuntimeError),
        (lambda x: x[x.detach() > 0], NotImplementedError),
    ],
)
def test_what_is_refused(function: Callable[[Tensor], Tensor], error: type[Exception]) -> None:
    with pytest.raises(error):
        differentiate(function, torch.empty(3, 4, device="meta"))


@pytest.mark.parametrize(
    "function", [lambda x: x * 2.0, lambda x: x[:, :2], lambda x: x * torch.ones(4, device=x.device), lambda x: x[:, 1]]
)
def test_what_is_allowed(function: Callable[[Tensor], Tensor]) -> None:
    differentiate(function, torch.empty(3, 4, device="meta"))
