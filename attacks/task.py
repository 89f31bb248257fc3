"""The types of this package: threat models, tasks, proposals, attacks and transforms."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from attacks.draws import Draws


class Norm(StrEnum):
    """How the distance between an image and its adversarial image is measured, over all channels and pixels.

    `Linf` is the largest change of a value, `L2` the root of the sum of squares, `L1` the sum of changes, `L0` the number of
    pixels that changed, in any of their channels.
    """

    LINF = "Linf"
    L2 = "L2"
    L1 = "L1"
    L0 = "L0"


def _parse_fraction(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected a number or a fraction such as 8/255, got {value!r}")
    if not isinstance(value, str):
        return value
    numerator, slash, denominator = value.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number or a fraction such as 8/255, got {value!r}") from None


LARGEST = 1e9
"""Upper bound of a length: no two images of 10,000 pixels a side differ by more, in any norm."""

PixelScale = Annotated[float, BeforeValidator(_parse_fraction), Field(ge=0, le=LARGEST, allow_inf_nan=False)]
"""A length on the [0, 1] pixel scale; a text such as "8/255" is parsed, and the number stored."""


def format_eps(eps: float) -> str:
    """Write a length as usual in this field: 0.1 if that is exact, otherwise 8/255 or 0.5/255 if that is."""
    decimal, halves = f"{eps:g}", round(eps * 510)
    if float(decimal) == eps or not math.isclose(eps * 510, halves, rel_tol=1e-6):
        return decimal
    return f"{halves / 2:g}/255"


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class ThreatModel:
    """What an attacker may do: move an image by at most `eps` in `norm`, within [0, 1].

    Attributes:
        norm: "Linf", "L2", "L1" or "L0".
        eps: radius on the [0, 1] pixel scale, a number or a text such as "8/255"; at most 1 for Linf; a number of pixels for L0.

    Raises:
        pydantic.ValidationError: a ValueError; the norm is unknown, or eps is not a number, negative, above 1 for Linf, or above
            1e9.
    """

    norm: Norm
    eps: PixelScale

    @model_validator(mode="after")
    def _on_pixel_scale(self) -> "ThreatModel":
        if self.norm is Norm.LINF and self.eps > 1:
            raise ValueError(
                f"eps is on the [0, 1] pixel scale, got {self.eps:g}; write {self.eps:g}/255 for 8-bit steps"
            )
        return self

    def __str__(self) -> str:
        return f"{self.norm} {format_eps(self.eps)}"


@dataclass(frozen=True)
class Task:
    """Images to be attacked.

    Attributes:
        model: takes images in [0, 1], returns logits (N, K); in evaluation mode.
        images: (N, C, H, W), values in [0, 1].
        labels: (N,) int64, the classes to move away from.
        threat: the budget, a norm and a radius.
        draws: the source of all random numbers, for N images.
        targets: (N,) int64, the classes to move towards instead, for targetable attacks.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    draws: Draws
    targets: Tensor | None = None

    def of_images(self, chosen: Tensor) -> "Task":
        """Return the same task for the images that a mask (N,) or indices (M,) select."""
        targets = None if self.targets is None else self.targets[chosen]
        return replace(
            self, images=self.images[chosen], labels=self.labels[chosen], draws=self.draws[chosen], targets=targets
        )


@dataclass(frozen=True)
class Proposal:
    """The images that an attack proposes.

    Attributes:
        images: (N, C, H, W), of the same type as the attacked images.
        steps: (N,) int64, number of steps after which each image was found, 0 for the start; None if the attack has no steps.
    """

    images: Tensor
    steps: Tensor | None = None


class Attack(Protocol):
    """Searches images that the model gets wrong. A frozen dataclass whose fields are the attack's parameters."""

    norms: ClassVar[frozenset[Norm]]
    """Norms that it supports."""

    targetable: ClassVar[bool]
    """Whether it accepts targets."""

    uses_gradient: ClassVar[bool]
    """Whether it needs gradients, which a model may hide or lack."""

    @property
    def title(self) -> str:
        """A short name with the parameter that matters most, such as "PGD-20"."""
        ...

    @property
    def passes(self) -> int:
        """Largest cost: passes of one image through the model; a pass with its gradient counts as three."""
        ...

    def perturb(self, task: Task) -> Proposal:
        """Propose adversarial images."""
        ...


@runtime_checkable
class ClassDependent(Protocol):
    """An attack that deviates from its parameters if there are few classes."""

    def notice(self, classes: int) -> str | None:
        """Describe what it does with this number of classes; None if it follows its parameters."""
        ...


@runtime_checkable
class Pairing(Protocol):
    """An attack that classifies two images at every query where the model is randomised, so that its passes count twice."""

    pairs: ClassVar[bool]


@runtime_checkable
class Approximate(Protocol):
    """An attack that says little about a randomised model, although it sees means over its passes."""

    of_randomised: ClassVar[str]
    """Why: the end of a sentence that begins with the attack's title."""


class Transform(Protocol):
    """Changes images without a model. A frozen dataclass whose fields are the transform's parameters."""

    @property
    def title(self) -> str:
        """A short name such as "rotation 90"."""
        ...

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Change images (N, C, H, W) in [0, 1]; returns the same shape, type and range."""
        ...
