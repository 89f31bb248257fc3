"""Choices of attacks and transforms with their parameters, and the rounds that attacks run in."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

import attacks
from common.validation import Frozen, Whole
from models import Precision

Parameters = dict[str, object]

MAX_RESTARTS = 1_000
"""Runs of one attack at most."""


class Choice(Frozen):
    """A name from a registry with its parameters, all of them written out."""

    name: str
    parameters: Annotated[Parameters, Field(validate_default=True)] = {}


def complete(
    create: Callable[..., attacks.Attack | attacks.Transform], given: Parameters, name: str | None
) -> Parameters:
    """Check parameters and add the defaults, so that a default left out and one written out are the same question."""
    return given if name is None else attacks.parameters(create(name, **given))


class AttackChoice(Choice):
    """One attack, a name of `attacks.attack_names()`, with its parameters."""

    restarts: Annotated[
        Whole,
        Field(
            ge=1,
            le=MAX_RESTARTS,
            description="independent runs, each on the images that the ones before left",
        ),
    ] = 1

    @field_validator("parameters")
    @classmethod
    def _known(cls, given: Parameters, info: ValidationInfo) -> Parameters:
        return complete(attacks.create, given, info.data.get("name"))

    def create(self) -> attacks.Attack:
        """Make the attack."""
        return attacks.create(self.name, **self.parameters)

    @property
    def title(self) -> str:
        """For example "PGD-20" or "PGD-20 x 5"."""
        return self.create().title + (f" x {self.restarts}" if self.restarts > 1 else "")


def _each_once(chosen: tuple[AttackChoice, ...]) -> tuple[AttackChoice, ...]:
    """Refuse an attack that is listed twice: its second run would draw what the first did."""
    for position, choice in enumerate(chosen):
        if any((each.name, each.parameters) == (choice.name, choice.parameters) for each in chosen[:position]):
            raise ValueError(f"{choice.create().title} is listed twice: give it restarts instead")
    return chosen


Attacks = Annotated[tuple[AttackChoice, ...], Field(min_length=1, max_length=16), AfterValidator(_each_once)]


class Round(NamedTuple):
    """One run of an attack in a cascade; restart 0 is its first, `repeated` is one in float32 after that in lower precision."""

    choice: AttackChoice
    restart: int
    repeated: bool = False


def rounds(chosen: tuple[AttackChoice, ...]) -> list[Round]:
    """List the rounds of a cascade of attacks, in their order."""
    return [Round(choice, restart) for choice in chosen for restart in range(choice.restarts)]


def repetition(chosen: tuple[AttackChoice, ...], precision: Precision) -> list[Round]:
    """What a cascade ends with where attacks looked in lower precision: the first one's last restart, in float32."""
    return [] if precision == "float32" else [Round(chosen[0], chosen[0].restarts - 1, repeated=True)]


class Averaging(NamedTuple):
    """How a randomised model is evaluated: passes whose means an attack sees, and passes by which each image is judged."""

    eot_passes: int
    judged_passes: int


def averaged_passes(attack: attacks.Attack) -> int:
    """Passes of one image through a randomised model, each to be taken so often that their mean is known."""
    return attack.passes * (2 if isinstance(attack, attacks.Pairing) else 1)
