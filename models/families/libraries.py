"""Networks of other makers by name: `torchvision:densenet121`, `timm:vit_tiny_patch16_224`.

They are built by those libraries, without their weights.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common import unknown_name
from models.registry import Family, ModelSpec, register_family

_SIDE = 224


class _RealNumbers(TorchFunctionMode):
    """Give RegNets the numbers that they compute their widths and depths with, also where networks are built without memory."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make ranges and given numbers on the CPU; leave everything else as it is."""
        on_cpu = {"device": "cpu"} if func in {torch.arange, torch.tensor} else {}
        return func(*args, **(on_cpu | (kwargs or {})))


def _torchvision(name: str) -> ModelSpec:
    models = importlib.import_module("torchvision.models")
    known: list[str] = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    return ModelSpec(f"torchvision:{name}", _builder(models, name), (3, _SIDE, _SIDE), "torchvision")


def _builder(models: ModuleType, name: str) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        with warnings.catch_warnings(), _RealNumbers() if name.startswith("regnet") else nullcontext():
            warnings.simplefilter("ignore", FutureWarning)  # of how weights will be drawn that a checkpoint replaces
            return models.get_model(name, weights=None, num_classes=num_classes)

    return build


def _timm(name: str) -> ModelSpec:
    if importlib.util.find_spec("timm") is None:
        raise ValueError(f"timm:{name} needs the library timm: uv pip install '.[hub]'")
    timm: Any = importlib.import_module("timm")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())

    def build(num_classes: int) -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=num_classes)

    return ModelSpec(f"timm:{name}", build, (3, _SIDE, _SIDE), "timm")


register_family(Family(name="torchvision and timm", libraries={"torchvision": _torchvision, "timm": _timm}))
