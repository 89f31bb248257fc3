"""How pictures were probably prepared for a network: as its library or its paper does it."""

import importlib
import math
from collections.abc import Mapping
from typing import Any

from models.preprocess import Preprocessing
from models.registry import defaults, spec

_SMALL_SIDE = 100
"""Images below this many pixels are commonly not cropped."""


def likely_preprocessing(architecture: str, options: Mapping[str, object]) -> Preprocessing:
    """Preprocessing of the weights published for an architecture, or what is usual for images of its size.

    Args:
        architecture: a name that `create` knows.
        options: where they differ from the architecture's defaults.
    """
    library, _, name = architecture.partition(":")
    if library == "torchvision":
        return _of_torchvision(name)
    if library == "timm":
        return of_timm(importlib.import_module("timm.models").get_pretrained_cfg(name).to_dict())
    full = defaults(architecture) | dict(options)
    side = int(str(full.get("image_size", spec(architecture).input_shape[1])))
    if side < _SMALL_SIDE:
        return Preprocessing(resize=side, crop=side)
    return Preprocessing(resize=min(4096, round(side * 256 / 224)), crop=min(4096, side))


def _of_torchvision(name: str) -> Preprocessing:
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
    """Read timm's description of how pictures are prepared for some weights.

    Args:
        settings: its pretrained_cfg; `input_size` is (C, H, W), `crop_pct` the cropped fraction of the resized side.

    Raises:
        ValidationError: these are no settings that pictures can be prepared by.
        LookupError, TypeError, ValueError, ArithmeticError: they are not of this form.
    """
    crop = int(settings["input_size"][1])
    return Preprocessing(
        resize=max(
            crop, math.floor(crop / settings["crop_pct"])
        ),  # of some, crop_pct is above 1: a smaller picture in a frame
        crop=crop,
        crop_mode=settings.get("crop_mode", "center"),
        interpolation="bicubic" if settings["interpolation"] == "bicubic" else "bilinear",
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
