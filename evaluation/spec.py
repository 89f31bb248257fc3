"""What is asked: models, images, conditions. Frozen, complete, and the same question always has the same JSON."""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

import attacks
from attacks import Norm, PixelScale, TargetRule, ThreatModel, format_eps
from common.validation import Frozen, Whole
from evaluation.choices import (
    AttackChoice,
    Attacks,
    Averaging,
    Choice,
    Parameters,
    averaged_passes,
    complete,
    repetition,
    rounds,
)
from evaluation.claims import Claim
from evaluation.data.classes import ClassMap
from models import Precision

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(@[A-Za-z0-9][A-Za-z0-9._-]{0,31})?$"
Name = Annotated[
    str, Field(pattern=NAME_PATTERN, description="letters, digits, dots, dashes and underscores; after @, a version")
]
MAX_GRID = 2_000
"""Points of a grid at most."""


EOT_PASSES = 20
"""Passes of which an attack on a randomised model sees the mean: as many as in the version "rand" of AutoAttack (Croce, Hein 2020,
arXiv:2003.01690)."""

JUDGED_PASSES = 10
"""Passes by which an image of a randomised model is judged: chance within images then adds a tenth of the variance to a score that
it would add with one pass per image."""

MAX_PASSES = 1_000
"""Passes at most."""

OnBroken = Literal["fail", "skip"]
"""What to do about pictures that cannot be decoded."""


class CleanCondition(Frozen):
    """The images as they are."""

    kind: Literal["clean"] = "clean"
    passes: ClassVar[int] = 1
    """What an image costs at most: passes through the model, one with its gradient counted as three."""

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        return "clean"


class TransformCondition(Choice):
    """The images changed without looking at the model; a name of `attacks.transform_names()` with its parameters."""

    kind: Literal["transform"] = "transform"
    passes: ClassVar[int] = 2

    @field_validator("parameters")
    @classmethod
    def _known(cls, given: Parameters, info: ValidationInfo) -> Parameters:
        return complete(attacks.create_transform, given, info.data.get("name"))

    def create(self) -> attacks.Transform:
        """Make the transform."""
        return attacks.create_transform(self.name, **self.parameters)

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        return self.create().title


class GridCondition(Frozen):
    """The worst over a grid: an image counts as right only where it is right at every point.

    As in Engstrom et al. 2019 (arXiv:1712.02779, Sec. 4), who turn and shift a picture; a grid over any transform's parameters.
    """

    kind: Literal["grid"] = "grid"
    name: str
    grid: Annotated[
        dict[str, Annotated[tuple[float, ...], Field(min_length=1)]],
        Field(min_length=1, description="values of each parameter; every combination is tried"),
    ]

    @field_validator("grid")
    @classmethod
    def _known(cls, grid: dict[str, tuple[float, ...]], info: ValidationInfo) -> dict[str, tuple[float, ...]]:
        if (points := math.prod(map(len, grid.values()))) > MAX_GRID:
            raise ValueError(f"the grid has {points} points, at most {MAX_GRID} are allowed")
        if name := info.data.get("name"):
            for point in _points(grid):
                attacks.create_transform(name, **point)
        return grid

    def create(self) -> list[attacks.Transform]:
        """Make the transforms, one for each point."""
        return [attacks.create_transform(self.name, **point) for point in _points(self.grid)]

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        spans = ", ".join(
            f"{name} {min(values):g}..{max(values):g} ({len(values)})" for name, values in self.grid.items()
        )
        return f"worst {self.name}: {spans}"

    @property
    def passes(self) -> int:
        """One for each point, and one before."""
        return 1 + math.prod(map(len, self.grid.values()))


def _points(grid: dict[str, tuple[float, ...]]) -> list[dict[str, float]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _attack_titles(chosen: tuple[AttackChoice, ...]) -> str:
    return " + ".join(choice.title for choice in chosen)


def _passes(chosen: tuple[AttackChoice, ...]) -> int:
    """The passes of all runs, and one after each."""
    return sum((choice.create().passes + 1) * choice.restarts for choice in chosen)


def _require_norm(chosen: tuple[AttackChoice, ...], norm: Norm | None) -> None:
    for attack in (choice.create() for choice in chosen):
        if norm is not None and norm not in attack.norms:
            raise ValueError(f"{attack.title} does not support {norm} (supported: {', '.join(sorted(attack.norms))})")


class AdversarialCondition(Frozen):
    """The images attacked within a budget; per image the worst over the attacks counts.

    The attacks are a cascade of rounds, one for each attack and restart: a round meets only the images that are right and that the
    rounds before it left standing; with targets, those that are not yet predicted as theirs.
    """

    kind: Literal["adversarial"] = "adversarial"
    threat: ThreatModel
    attacks: Attacks
    targets: Annotated[
        TargetRule | None, Field(description="aim for a class; without it the label is moved away from")
    ] = None

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        aim = f" to {self.targets.replace('_', ' ')}" if self.targets else ""
        return f"{_attack_titles(self.attacks)} {self.threat}{aim}"

    @property
    def passes(self) -> int:
        """The passes of all its rounds, one after each, and one before."""
        return 1 + _passes(self.attacks)

    @property
    def shorter_cascades(self) -> Iterator["AdversarialCondition"]:
        """The shorter cascades that this one begins with, the longest first."""
        for position, choice in reversed([*enumerate(self.attacks)]):
            for restarts in range(choice.restarts - 1, -1, -1):
                last = (choice.model_copy(update={"restarts": restarts}),) if restarts else ()
                if shorter := self.attacks[:position] + last:
                    yield self.model_copy(update={"attacks": shorter})

    @field_validator("attacks")
    @classmethod
    def _within_norm(cls, chosen: tuple[AttackChoice, ...], info: ValidationInfo) -> tuple[AttackChoice, ...]:
        threat: ThreatModel | None = info.data.get("threat")
        _require_norm(chosen, None if threat is None else threat.norm)
        return chosen

    @field_validator("targets")
    @classmethod
    def _targetable(cls, rule: TargetRule | None, info: ValidationInfo) -> TargetRule | None:
        chosen: tuple[AttackChoice, ...] = info.data.get("attacks", ())
        for attack in (choice.create() for choice in chosen):
            if rule is not None and not attack.targetable:
                raise ValueError(f"{attack.title} has no targeted form, got targets = {rule!r}")
        return rule


class CurveCondition(Frozen):
    """Robust accuracy against eps: for each image the smallest radius at which an attack flips it.

    The radii are tried from the smallest on, each on the images that still stand, so the curve never rises. `refine` halves the
    interval in which an image was flipped that many times more: the minimal eps of each image.
    """

    kind: Literal["curve"] = "curve"
    norm: Norm
    eps: Annotated[tuple[PixelScale, ...], Field(min_length=1, max_length=64, description="increasing radii")]
    attacks: Attacks
    refine: Annotated[Whole, Field(ge=0, le=16, description="bisections between neighbouring radii")] = 0

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """The balls, the smallest first."""
        return tuple(ThreatModel(self.norm, eps) for eps in self.eps)

    @property
    def title(self) -> str:
        """A short name, unique within a specification."""
        first, last = self.threats[0], self.threats[-1]
        refined = f", refined {self.refine} times" if self.refine else ""
        return f"curve of {_attack_titles(self.attacks)} {first}..{format_eps(last.eps)} ({len(self.eps)}){refined}"

    @property
    def passes(self) -> int:
        """The passes of all its rounds at every radius, and one before."""
        return 1 + _passes(self.attacks) * (len(self.eps) + self.refine)

    @field_validator("eps")
    @classmethod
    def _increasing(cls, eps: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if any(left >= right for left, right in itertools.pairwise((0.0, *eps))):
            raise ValueError(f"the radii must be above 0 and increase, got {', '.join(map(format_eps, eps))}")
        if norm := info.data.get("norm"):
            ThreatModel(norm, eps[-1])
        return eps

    @field_validator("attacks")
    @classmethod
    def _within_norm(cls, chosen: tuple[AttackChoice, ...], info: ValidationInfo) -> tuple[AttackChoice, ...]:
        _require_norm(chosen, info.data.get("norm"))
        return chosen


Attacking = AdversarialCondition | CurveCondition
"""Conditions under which something attacks, so that robust accuracy counts."""

Condition = Annotated[
    CleanCondition | TransformCondition | GridCondition | AdversarialCondition | CurveCondition,
    Field(discriminator="kind"),
]


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return values


class EvaluationSpec(Frozen):
    """An evaluation: every model under every condition on the same images."""

    models: Annotated[
        tuple[Name, ...],
        Field(min_length=1, max_length=64, description="names of checkpoints"),
        AfterValidator(_distinct),
    ]
    dataset: Annotated[Name, Field(description="name of a data set")]
    class_map: Annotated[
        ClassMap | None,
        Field(
            description="the model's class, by name or index, for every class of the data set; null: found by name, WordNet id "
            "or index"
        ),
    ] = None
    logits: Annotated[
        Literal["all", "dataset"],
        Field(description="among which classes a model chooses: all of its own, or only those of the data set"),
    ] = "all"
    images: Annotated[
        Whole | None,
        Field(
            ge=1, description="how many images, drawn evenly from the classes; null takes all; with a claim, at most"
        ),
    ] = None
    on_broken: Annotated[
        OnBroken, Field(description="broken pictures: refuse the evaluation, or leave them out and report which")
    ] = "fail"
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=256)] = (CleanCondition(),)
    precision: Annotated[
        Precision, Field(description="in which attacks look; what they found is always judged in float32")
    ] = "float32"
    stop_width: Annotated[
        float | None,
        Field(
            gt=0, lt=1, description="a condition ends early once its score's 95 % interval is as narrow; null: never"
        ),
    ] = None
    claim: Annotated[
        Claim | None,
        Field(
            description="of one condition: it ends as soon as it is known whether each model's score is so high. Images are then "
            "drawn at random from all, not evenly from the classes",
            exclude_if=lambda claim: claim is None,
        ),
    ] = None
    randomised: Annotated[
        bool | None,
        Field(
            description="whether passes of one image through a model differ, so that attacks see means over passes and each image "
            "is judged over several; null: as its card says, or where two passes differ",
            exclude_if=lambda value: value is None,
        ),
    ] = None
    eot_passes: Annotated[
        Whole,
        Field(
            ge=1,
            le=MAX_PASSES,
            description="passes of which attacks on a randomised model see the mean",
            exclude_if=lambda value: value == EOT_PASSES,
        ),
    ] = EOT_PASSES
    judged_passes: Annotated[
        Whole,
        Field(
            ge=1,
            le=MAX_PASSES,
            description="passes by which an image is judged, if the model is randomised",
            exclude_if=lambda value: value == JUDGED_PASSES,
        ),
    ] = JUDGED_PASSES
    seed: Annotated[Whole, Field(ge=0, lt=2**63, description="of all random draws but the selection of images")] = 0
    selection_seed: Annotated[Whole, Field(ge=0, lt=2**63, description="of the selection of images")] = 0

    @property
    def averaging(self) -> Averaging:
        """How randomised models are evaluated."""
        return Averaging(self.eot_passes, self.judged_passes)

    def treats_as_randomised(self, found: bool) -> bool:
        """Whether a model is treated as randomised of which its card, or two passes, show that it is or is not."""
        return found if self.randomised is None else self.randomised

    @property
    def attacking(self) -> list[int]:
        """Places of the conditions under which something attacks."""
        return [position for position, each in enumerate(self.conditions) if isinstance(each, Attacking)]

    def passes(self, condition: Condition, *, randomised: bool = False) -> int:
        """What an image costs at most under a condition: its own passes, and those of the repetition in float32.

        Args:
            condition: what is done.
            randomised: whether the model is, so that attacks see means, and images are judged by several passes.
        """
        if randomised:
            return self._averaged_passes(condition)
        if not isinstance(condition, Attacking):
            return condition.passes
        again = sum(run.choice.create().passes + 1 for run in repetition(condition.attacks, self.precision))
        return condition.passes + again * (len(condition.eps) + condition.refine if condition.kind == "curve" else 1)

    @field_validator("claim")
    @classmethod
    def _about_one_condition(cls, claim: Claim | None, info: ValidationInfo) -> Claim | None:
        conditions: tuple[Condition, ...] = info.data.get("conditions", ())
        if claim is not None and len(conditions) > 1:
            titles = ", ".join(each.title for each in conditions)
            raise ValueError(f"a claim is about one condition, got {len(conditions)}: {titles}")
        if claim is not None and any(each.kind == "curve" for each in conditions):
            raise ValueError(
                "a claim is about one score, and a curve has one for each radius: ask for an attack at one radius"
            )
        if claim is not None and info.data.get("stop_width") is not None:
            raise ValueError("a claim says itself when to stop: leave stop_width out")
        return claim

    def _averaged_passes(self, condition: Condition) -> int:
        """Every image that is classified costs its judging passes: as it is, where one is chosen among several, and at the end."""
        judged = self.judged_passes
        if isinstance(condition, GridCondition):
            return (condition.passes + 1) * judged
        if not isinstance(condition, Attacking):
            return condition.passes * judged
        every = rounds(condition.attacks) + repetition(condition.attacks, self.precision)
        searches = sum(averaged_passes(run.choice.create()) * self.eot_passes + judged for run in every) + 2 * judged
        return judged + searches * (len(condition.eps) + condition.refine if condition.kind == "curve" else 1)

    @field_validator("conditions")
    @classmethod
    def _distinct_conditions(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        _distinct(tuple(condition.title for condition in conditions))
        return conditions
