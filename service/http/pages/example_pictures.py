"""The pictures of an image that was flipped: as files, and as what a page loads."""

from base64 import b64decode, b64encode
from collections.abc import Callable
from enum import StrEnum

from evaluation.compute.examples import Example
from service.serving.pictures.drawing import over_picture


class PictureKind(StrEnum):
    """What a picture of an example shows."""

    CLEAN = "clean"
    CHANGED = "changed"
    DIFFERENCE = "difference"
    CLEAN_ATTENTION = "clean-attention"
    ATTENTION = "attention"


Source = Callable[[int, int, Example, PictureKind], str]
"""Gives the address of a picture from the model's and the condition's position in the evaluation, the example, and the kind."""


def kinds(example: Example) -> list[PictureKind]:
    """The pictures that there are of an example; those of attention where the model has it."""
    return [*PictureKind] if example.attention else [PictureKind.CLEAN, PictureKind.CHANGED, PictureKind.DIFFERENCE]


def png(example: Example, kind: PictureKind) -> bytes:
    """Read or draw one of the `kinds` of an example."""
    match kind:
        case PictureKind.CLEAN_ATTENTION:
            return over_picture(b64decode(example.clean), example.clean_attention or ())
        case PictureKind.ATTENTION:
            return over_picture(b64decode(example.changed), example.attention or ())
        case _:
            return b64decode(getattr(example, kind))


def inlined(_model: int, _condition: int, example: Example, kind: PictureKind) -> str:
    """Write a picture into its address, for files that need no other."""
    return f"data:image/png;base64,{b64encode(png(example, kind)).decode()}"


def linked(page: str) -> Source:
    """Point to the pictures below the page of an evaluation."""
    return lambda model, condition, example, kind: f"{page}/pictures/{model}/{condition}/{example.index}/{kind}.png"
