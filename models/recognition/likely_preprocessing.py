"""How pictures were probably prepared for a network: as in its library or paper."""

from collections.abc import Mapping

from models.libraries import PREPROCESSING
from models.preprocess import Preprocessing
from models.registry import defaults, spec

_SMALL_SIDE = 100
"""Images smaller than this, in pixels a side, are usually not cropped."""


def likely_preprocessing(architecture: str, options: Mapping[str, object]) -> Preprocessing:
    """Find the preprocessing of an architecture's published weights, or the usual one for images of its size.

    Args:
        architecture: a name that `create` accepts.
        options: those that differ from the architecture's defaults.
    """
    library, _, name = architecture.partition(":")
    if library in PREPROCESSING:
        return PREPROCESSING[library](name)
    full = defaults(architecture) | dict(options)
    side = int(str(full.get("image_size", spec(architecture).input_shape[1])))
    if side < _SMALL_SIDE:
        return Preprocessing(resize=side, crop=side)
    return Preprocessing(resize=min(4096, round(side * 256 / 224)), crop=min(4096, side))
