"""Numbers people can read, and what they must know to read them."""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import Field

from common.validation import Frozen
from evaluation.claims import ClaimVerdict
from evaluation.compute.checks import Check, Grade
from evaluation.compute.examples import Example
from evaluation.data.broken import describe
from evaluation.plan import Plan
from evaluation.statistics import Proportion

MOST_COLUMNS = 10
"""Conditions that a table has side by side at most."""


class CurvePoint(Frozen):
    """Robust accuracy at a radius on the [0, 1] pixel scale."""

    eps: float
    robust_accuracy: Proportion


class PassesReport(Frozen):
    """Passes of a randomised model under one condition, over the images done so far.

    Attributes:
        eot_passes: whose means attacks saw.
        judged_passes: by which each image was judged, as it is and under the condition.
        clean_in_all: images right as they are in all of these passes / n.
        clean_in_most: right as they are in more than half of them / n.
        in_all: right under the condition in all of them / n.
        in_most: right under the condition in more than half of them / n.
    """

    eot_passes: int
    judged_passes: int
    clean_in_all: Proportion | None
    clean_in_most: Proportion | None
    in_all: Proportion | None
    in_most: Proportion | None

    @property
    def how(self) -> str:
        """A sentence on what the accuracies mean."""
        return (
            f"attacks saw the mean of {self.eot_passes} passes (EOT), each image was judged by {self.judged_passes} other passes, "
            "and accuracy is the mean share of right passes, with the variance between images in its interval; curves count images "
            "that are right in most passes"
        )

    @property
    def numbers(self) -> str:
        """For example "12 are right in all 10 passes and 15 in most"."""
        all_right, most = (each.count if each else 0 for each in (self.in_all, self.in_most))
        return f"{all_right} are right in all {self.judged_passes} passes and {most} in most"


class ConditionReport(Frozen):
    """One model under one condition. Every fraction is over the images done so far and has its n.

    If the model is randomised, the accuracies are means over the images of the share of right passes, with the interval of
    `statistics.share_of_passes`; all other numbers, and curves, count an image as right if it is so in most passes.

    Attributes:
        title: of the condition.
        images_done: images with a result.
        clean_accuracy: right on the same images as they are / n.
        accuracy: right under the condition / n.
        top5_accuracy: right class among the five largest logits / n; None with five classes or fewer.
        drop: clean accuracy minus accuracy, on the same images.
        robust_accuracy: right on the clean image and not flipped within budget / n; None where nothing attacks.
        attack_success_rate: flipped within budget / right on the clean image.
        target_rate: predicted as the target, within budget / n; None without targets.
        curve: robust accuracy at each eps of a curve; empty elsewhere.
        median_minimal_eps: median over all images of the radius that flipped them, 0 where wrong already; None elsewhere, or if
            most still stand.
        not_run: attacks that need a gradient, where the model has none; without any other, nothing is counted.
        flipped_in_float32: images that stood after a search in lower precision and were flipped as it was repeated.
        outside_budget: indices of images where an attack left the ball or [0, 1], or returned NaN; they count as standing.
        seconds: of computing, summed over shards.
        images_forwarded: passes of an image through the model.
        examples: pictures of a few images that were right and are wrong under the condition.
        passes: of a randomised model; None, and absent from JSON, for others.
    """

    title: str
    images_done: int
    clean_accuracy: Proportion | None
    accuracy: Proportion | None
    top5_accuracy: Proportion | None
    drop: float | None
    robust_accuracy: Proportion | None
    attack_success_rate: Proportion | None
    target_rate: Proportion | None
    curve: tuple[CurvePoint, ...] = ()
    median_minimal_eps: float | None = None
    not_run: tuple[str, ...] = ()
    flipped_in_float32: int = 0
    outside_budget: tuple[int, ...]
    seconds: float
    images_forwarded: int
    examples: tuple[Example, ...] = ()
    passes: Annotated[PassesReport | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def score(self) -> Proportion | None:
        """The number a table shows: robust accuracy where something attacks, else accuracy."""
        return self.robust_accuracy or self.accuracy


class ModelReport(Frozen):
    """One model under all conditions, in the order of the specification, with what was checked.

    Attributes:
        model: name of the checkpoint.
        conditions: what was found.
        checks: of the model, of each attack, and of the numbers against each other.
        grade: the worst that a failed check means; unchecked while something is missing.
        tried: the attacks that the grade is about; empty where none was run, or all of the preset standard.
        mce: mean error over the fifteen common corruptions, if all of them were seen at all severities.
        claim: what came of the claim of the evaluation; None without one.
        mce_of_alexnet: the same, each error divided by AlexNet's on ImageNet-C; None where there are other classes than ImageNet's.
    """

    model: str
    conditions: tuple[ConditionReport, ...]
    checks: tuple[Check, ...] = ()
    grade: Grade = "unchecked"
    tried: tuple[str, ...] = ()
    claim: ClaimVerdict | None = None
    mce: float | None = None
    mce_of_alexnet: float | None = None

    @property
    def verdict(self) -> str:
        """The grade, and for which attacks a reliable number holds: others may find more."""
        return f"reliable for {', '.join(self.tried)}" if self.grade == "reliable" and self.tried else self.grade

    @property
    def clean_accuracy(self) -> Proportion | None:
        """That of the first condition with a result."""
        return next((each.clean_accuracy for each in self.conditions if each.clean_accuracy), None)

    @property
    def lowest(self) -> ConditionReport | None:
        """The condition with the lowest score, of those with a result."""
        scored = [(each.score.value, place) for place, each in enumerate(self.conditions) if each.score]
        return self.conditions[min(scored)[1]] if scored else None

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failed)


class Table(NamedTuple):
    """Scores for people: a name of the first column, the others' names, and rows with their name."""

    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Proportion | None]]]


class Report(Frozen):
    """What an evaluation found, with the plan it followed; `complete` is False while shards are missing."""

    schema_version: int = 5
    plan: Plan
    complete: bool
    models: tuple[ModelReport, ...]
    made_with: tuple[str, ...] = ()
    warnings: tuple[str, ...]

    @property
    def table(self) -> "Table":
        """The scores, one row per model; with more than `MOST_COLUMNS` conditions, one row per condition."""
        titles = [condition.title for condition in self.plan.spec.conditions]
        names = [model.model for model in self.models]
        scores = [[each.score for each in model.conditions] for model in self.models]
        if len(titles) > MOST_COLUMNS:
            return Table("condition", names, [*zip(titles, map(list, zip(*scores, strict=True)), strict=True)])
        return Table("model", titles, [*zip(names, scores, strict=True)])

    def without_pictures(self) -> "Report":
        """The same without the pictures of examples, which are most of its size."""
        models = (
            (each, [condition.model_copy(update={"examples": ()}) for condition in each.conditions])
            for each in self.models
        )
        bare = tuple(each.model_copy(update={"conditions": tuple(conditions)}) for each, conditions in models)
        return self.model_copy(update={"models": bare})

    def to_markdown(self) -> str:
        """Write the table, each cell with its 95 % interval, and the protocol below."""
        from evaluation.reports.formats.markdown import to_markdown  # noqa: PLC0415  it needs this class

        return to_markdown(self)

    def facts(self) -> list[str]:
        """List what one must know to read the table."""
        spec = self.plan.spec
        return [
            *([] if self.complete else ["PARTIAL: not all images are done; every cell is over the images done so far"]),
            f"{spec.dataset}, {_selected(self.plan)} (selection seed {spec.selection_seed}), seed {spec.seed}, {spec.precision}",
            *_class_facts(self.plan),
            *(
                f"{model.model}: {_in_float32(model)} were flipped in float32 alone, after {spec.precision} had left them standing"
                for model in self.models
                if spec.precision != "float32"
            ),
            *(
                [f"{len(self.plan.skipped)} broken pictures were skipped: {describe(self.plan.skipped)}"]
                if self.plan.skipped
                else []
            ),
            *(
                []
                if spec.stop_width is None
                else [f"a condition ended once its interval was at most {100 * spec.stop_width:g} points wide"]
            ),
            "accuracy in percent; intervals are 95 % Wilson intervals; under an attack, robust accuracy: "
            "right on the clean image and under every attack",
            *_passes_facts(self.models),
            *(
                f"mean corruption error of {model.model}: {_mce(model)}"
                for model in self.models
                if model.mce is not None
            ),
            *(f"trust in {model.model}: {model.verdict}" for model in self.models),
            *_claims(self.models),
            *(f"WARNING: {warning}" for warning in self.warnings),
            f"evaluation {self.plan.id}, data sha256 {self.plan.dataset_sha256[:12]}",
        ]


def _selected(plan: Plan) -> str:
    if plan.spec.claim is None:
        return f"n = {plan.images} images drawn evenly from the classes"
    return f"at most {plan.images:,} images drawn at random"


def _claims(models: Iterable[ModelReport]) -> Iterable[str]:
    for model in models:
        if model.claim is not None:
            yield f"{model.model}: {model.claim.summary}"
            yield from (f"{model.model}, protocol of the claim: {each}" for each in model.claim.differences)


def _class_facts(plan: Plan) -> Iterable[str]:
    """How classes were matched where that was not by equal names, and the choice that a model has where that is not obvious."""
    for model, match in plan.matches.items():
        if match.rule != "name":
            yield f"classes of {model} were matched by {match.rule}"
        if len(match.columns) < match.model_classes:
            masked = "masked" if plan.spec.logits == "dataset" else "not masked"
            yield (
                f"{plan.spec.dataset} has {len(match.columns)} of the {match.model_classes} classes of {model}; logits of the "
                f"others are {masked}, so chance is 1 in {plan.choices(model)} ({100 / plan.choices(model):.2g} %)"
            )


def _passes_facts(models: Iterable[ModelReport]) -> Iterable[str]:
    """How randomised models were evaluated, and in how many images all or most passes were right."""
    for model in models:
        counted = [each for each in model.conditions if each.passes]
        for each in counted[:1]:
            yield f"{model.model} is randomised: {each.passes.how if each.passes else ''}"
        for each in counted if len(counted) <= MOST_COLUMNS else ():
            if each.passes:
                yield f"{model.model}, {each.title}: of {each.images_done} images, {each.passes.numbers}"


def _in_float32(model: ModelReport) -> str:
    attacked = [each for each in model.conditions if each.robust_accuracy]
    flipped = sum(each.flipped_in_float32 for each in attacked)
    return f"{flipped} of {sum(each.images_done for each in attacked)} attacked images"


def _mce(model: ModelReport) -> str:
    of_alexnet = (
        "" if model.mce_of_alexnet is None else f", {100 * model.mce_of_alexnet:.2f} % of AlexNet's on ImageNet-C"
    )
    return f"{100 * (model.mce or 0):.2f} %{of_alexnet}"


def format_score(score: Proportion | None) -> str:
    """Write a fraction in percent with its interval, such as "91.2 [88.5, 93.4] (n=300)"."""
    if score is None:
        return "-"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}] (n={score.n})"
