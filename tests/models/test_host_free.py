"""No forward or backward pass moves anything between host and device: such a pass can be captured as a CUDA graph and never waits.

The pretended device is "meta", whose tensors hold nothing: what needs a value of them raises, and what lies in the host's memory
shows by its device.
"""

import re
import traceback
from collections.abc import Callable, Iterable
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


def differentiate_classifier(classifier: Classifier) -> None:
    name = classifier.card.architecture
    images = torch.empty(2, *models.spec(name).input_shape, device="meta")
    gradient = differentiate(classifier, images, *classifier.parameters(), *classifier.buffers())
    assert gradient.shape == images.shape


def card(name: str) -> ModelCard:
    side = models.spec(name).input_shape[1]
    preprocessing = models.Preprocessing(resize=side, crop=side)
    return ModelCard(architecture=name, classes=tuple("abcde"), preprocessing=preprocessing)


def on_device(name: str, **options: Any) -> Classifier:
    with torch.device("meta"):
        network = models.create(name, num_classes=5, **options)
        return Classifier(network, card(name)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", [name for name in models.names() if not DEEPER.search(name)])
def test_networks_as_they_are(name: str) -> None:
    differentiate_classifier(on_device(name))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_of_the_families(name: str, options: dict[str, Any]) -> None:
    differentiate_classifier(on_device(name, **options))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_folded_copies(name: str, precision: models.Precision) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create(name, num_classes=5).eval()
    folded = models.fold(Classifier(network, card(name)).eval(), precision)
    differentiate_classifier(folded.to("meta"))


def test_a_choice_among_the_classes() -> None:
    differentiate_classifier(on_device("resnet_mini").restricted((0, 3)))


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
