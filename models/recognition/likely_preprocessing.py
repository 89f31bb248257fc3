"""How pictures were probably prepared for a network: as its library or its paper does it."""

from collections.abc import Mapping

from models.libraries import PREPROCESSING
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
    if library in PREPROCESSING:
        return PREPROCESSING[library](name)
    full = defaults(architecture) | dict(options)
    side = int(str(full.get("image_size", spec(architecture).input_shape[1])))
    if side < _SMALL_SIDE:
        return Preprocessing(resize=side, crop=side)
    return Preprocessing(resize=min(4096, round(side * 256 / 224)), crop=min(4096, side))
