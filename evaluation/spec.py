"""What is asked: models, images, conditions. Frozen, complete, and the same question always has the same JSON."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

import attacks
from attacks import TargetRule, ThreatModel

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="letters, digits, dots, dashes and underscores")]
Parameters = dict[str, object]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class _Choice(BaseModel):
    """A name from a registry with its parameters, all of them written out."""

    model_config = _STRICT

    name: str
    parameters: Annotated[Parameters, Field(validate_default=True)] = {}


def _complete(
    create: Callable[..., attacks.Attack | attacks.Transform], given: Parameters, name: str | None
) -> Parameters:
    """Check parameters and add the defaults, so that a default left out and one written out are the same question."""
    return given if name is None else attacks.parameters(create(name, **given))


class AttackChoice(_Choice):
    """One attack, a name of `attacks.attack_names()`, with its parameters."""

    @field_validator("parameters")
    @classmethod
    def _known(cls, given: Parameters, info: ValidationInfo) -> Parameters:
        return _complete(attacks.create, given, info.data.get("name"))

    def create(self) -> attacks.Attack:
        """Make the attack."""
        return attacks.create(self.name, **self.parameters)


class CleanCondition(BaseModel):
    """The images as they are."""

    model_config = _STRICT

    kind: Literal["clean"] = "clean"
    passes: ClassVar[int] = 1
    """What an image costs at most: passes through the model, one with its gradient counted as three."""

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        return "clean"


class TransformCondition(_Choice):
    """The images changed without looking at the model; a name of `attacks.transform_names()` with its parameters."""

    kind: Literal["transform"] = "transform"
    passes: ClassVar[int] = 2

    @field_validator("parameters")
    @classmethod
    def _known(cls, given: Parameters, info: ValidationInfo) -> Parameters:
        return _complete(attacks.create_transform, given, info.data.get("name"))

    def create(self) -> attacks.Transform:
        """Make the transform."""
        return attacks.create_transform(self.name, **self.parameters)

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        return self.create().title


class AdversarialCondition(BaseModel):
    """The images attacked within a budget; per image the worst over the attacks counts."""

    model_config = _STRICT

    kind: Literal["adversarial"] = "adversarial"
    threat: ThreatModel
    attacks: Annotated[tuple[AttackChoice, ...], Field(min_length=1, max_length=16)]
    targets: Annotated[
        TargetRule | None, Field(description="aim for a class; without it the label is moved away from")
    ] = None

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        names = " + ".join(attack.create().title for attack in self.attacks)
        return f"{names} {self.threat}" + (f" to {self.targets.replace('_', ' ')}" if self.targets else "")

    @property
    def passes(self) -> int:
        """The passes of all its attacks, and one before and one after each."""
        return 1 + sum(2 + attack.create().passes for attack in self.attacks)

    @field_validator("attacks")
    @classmethod
    def _within_norm(cls, chosen: tuple[AttackChoice, ...], info: ValidationInfo) -> tuple[AttackChoice, ...]:
        threat: ThreatModel | None = info.data.get("threat")
        for attack in (choice.create() for choice in chosen):
            if threat is not None and threat.norm not in attack.norms:
                raise ValueError(
                    f"{attack.title} cannot keep to {threat.norm}; it knows {', '.join(sorted(attack.norms))}"
                )
        return chosen

    @field_validator("targets")
    @classmethod
    def _targetable(cls, rule: TargetRule | None, info: ValidationInfo) -> TargetRule | None:
        chosen: tuple[AttackChoice, ...] = info.data.get("attacks", ())
        for attack in (choice.create() for choice in chosen):
            if rule is not None and not attack.targetable:
                raise ValueError(f"{attack.title} has no targeted form, got targets = {rule!r}")
        return rule


Condition = Annotated[CleanCondition | TransformCondition | AdversarialCondition, Field(discriminator="kind")]


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return values


class EvaluationSpec(BaseModel):
    """An evaluation: every model under every condition on the same images."""

    model_config = _STRICT

    models: Annotated[
        tuple[Name, ...],
        Field(min_length=1, max_length=64, description="names of checkpoints"),
        AfterValidator(_distinct),
    ]
    dataset: Annotated[Name, Field(description="name of a data set")]
    images: Annotated[
        int | None, Field(ge=1, description="how many images, drawn evenly from the classes; null takes all")
    ] = None
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=256)] = (CleanCondition(),)
    precision: Annotated[Literal["float32"], Field(description="of forward passes and gradients")] = "float32"
    seed: Annotated[int, Field(ge=0, lt=2**63, description="of the selection of images and of all random draws")] = 0

    @field_validator("conditions")
    @classmethod
    def _distinct_conditions(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        _distinct(tuple(condition.title for condition in conditions))
        return conditions
