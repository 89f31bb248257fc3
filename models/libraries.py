"""Architectures of other libraries, such as `torchvision:densenet121` or `timm:vit_tiny_patch16_224`, and their preprocessing.

The libraries build them, without their weights.
"""

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common import unknown_name
from models.preprocess import Preprocessing
from models.registry import ModelSpec, register_others

_SIDE = 224


class _RealNumbers(TorchFunctionMode):
    """Lets RegNets compute their widths and depths, which need real numbers, while networks are built without memory."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Create ranges and given numbers on the CPU; change nothing else."""
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
            warnings.simplefilter("ignore", FutureWarning)  # about the initial weights, which a checkpoint replaces
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


def _torchvision_preprocessing(name: str) -> Preprocessing:
    weights: Any = importlib.import_module("torchvision.models").get_model_weights(name).DEFAULT
    usual = weights.transforms()
    return Preprocessing(
        resize=max(usual.resize_size[0], usual.crop_size[0]),
        crop=usual.crop_size[0],
        interpolation="bicubic" if usual.interpolation.value == "bicubic" else "bilinear",
        mean=tuple(usual.mean),
        std=tuple(usual.std),
    )


def of_timm(settings: Mapping[str, Any]) -> Preprocessing:
    """Convert timm's description of how pictures are prepared.

    Args:
        settings: timm's pretrained_cfg; `input_size` is (C, H, W), `crop_pct` the cropped fraction of the resized side.

    Raises:
        ValidationError: a value is out of range.
        LookupError, TypeError, ValueError, ArithmeticError: a value is missing or of another type.
    """
    crop = int(settings["input_size"][1])
    return Preprocessing(
        resize=max(
            crop, math.floor(crop / settings["crop_pct"])
        ),  # a crop_pct above 1 means a frame around the picture
        crop=crop,
        crop_mode=settings.get("crop_mode", "center"),
        interpolation="bicubic" if settings["interpolation"] == "bicubic" else "bilinear",
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def _timm_preprocessing(name: str) -> Preprocessing:
    return of_timm(importlib.import_module("timm.models").get_pretrained_cfg(name).to_dict())


PREPROCESSING: dict[str, Callable[[str], Preprocessing]] = {
    "torchvision": _torchvision_preprocessing,
    "timm": _timm_preprocessing,
}
"""Functions that find the preprocessing of the weights published for a name, by library."""

register_others("torchvision", _torchvision)
register_others("timm", _timm)
