"""From finished shards to numbers people can read: a pure function, at any moment."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from attacks import ClassDependent
from attacks.corruptions import CORRUPTIONS
from evaluation.broken import describe
from evaluation.checks import Check, Grade, grade
from evaluation.conditions import Row
from evaluation.examples import Example
from evaluation.mce import ALEXNET, mean_corruption_error
from evaluation.plan import Plan, Shard
from evaluation.presets import standard_attacks
from evaluation.runner import ShardResult
from evaluation.spec import Attacking, Condition, TransformCondition
from evaluation.statistics import Proportion, proportion
from evaluation.trust import (
    chance_check,
    claim_check,
    condition_checks,
    cross_checks,
    curve,
    distant_claim_check,
    median_minimal_eps,
    rival_check,
)

MOST_COLUMNS = 10
"""Conditions that a table has side by side at most."""

TOP_K = 5
SEVERITIES = 5
IMAGENET_CLASSES = 1000

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class CurvePoint(BaseModel):
    """Robust accuracy at a radius on the [0, 1] pixel scale."""

    model_config = _FROZEN

    eps: float
    robust_accuracy: Proportion


class ConditionReport(BaseModel):
    """One model under one condition. Every fraction is over the images done so far and has its n.

    Attributes:
        title: of the condition.
        images_done: images with a result.
        clean_accuracy: right on the same images as they are / n.
        accuracy: right under the condition / n.
        top5_accuracy: right class among the five largest logits / n; None with five classes or fewer.
        drop: clean accuracy minus accuracy, on the same images.
        robust_accuracy: right on the clean image and not felled within budget / n; None where nothing attacks.
        attack_success_rate: felled within budget / right on the clean image.
        target_rate: predicted as the target, within budget / n; None without targets.
        curve: robust accuracy at each eps of a curve; empty elsewhere.
        median_minimal_eps: median over all images of the radius at which they fell, 0 where wrong already; None elsewhere, or if
            most still stand.
        not_run: attacks that need a gradient, where the model has none; without any other, nothing is counted.
        felled_in_float32: images that stood after a search in lower precision and fell as it was repeated.
        outside_budget: indices of images where an attack left the ball or [0, 1], or returned NaN; they count as standing.
        seconds: of computing, summed over shards.
        images_forwarded: passes of an image through the model.
        examples: pictures of a few images that were right and are wrong under the condition.
    """

    model_config = _FROZEN

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
    felled_in_float32: int = 0
    outside_budget: tuple[int, ...]
    seconds: float
    images_forwarded: int
    examples: tuple[Example, ...] = ()

    @property
    def score(self) -> Proportion | None:
        """The number a table shows: robust accuracy where something attacks, else accuracy."""
        return self.robust_accuracy or self.accuracy


class ModelReport(BaseModel):
    """One model under all conditions, in the order of the specification, with what was checked.

    Attributes:
        model: name of the checkpoint.
        conditions: what was found.
        checks: of the model, of each attack, and of the numbers against each other.
        grade: the worst that a failed check means; unchecked while something is missing.
        tried: the attacks that the grade is about; empty where none was run, or all of the preset standard.
        mce: mean error over the fifteen common corruptions, if all of them were seen at all severities.
        mce_of_alexnet: the same, each error divided by AlexNet's on ImageNet-C; None where there are other classes than ImageNet's.
    """

    model_config = _FROZEN

    model: str
    conditions: tuple[ConditionReport, ...]
    checks: tuple[Check, ...] = ()
    grade: Grade = "unchecked"
    tried: tuple[str, ...] = ()
    mce: float | None = None
    mce_of_alexnet: float | None = None

    @property
    def verdict(self) -> str:
        """The grade, and for which attacks a reliable number holds: others may find more."""
        return f"reliable for {', '.join(self.tried)}" if self.grade == "reliable" and self.tried else self.grade

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failed)


class Table(NamedTuple):
    """Scores for people: a name of the first column, the others' names, and rows with their name."""

    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Proportion | None]]]


class Report(BaseModel):
    """What an evaluation found, with the plan it followed; `complete` is False while shards are missing."""

    model_config = _FROZEN

    schema_version: int = 5
    plan: Plan
    complete: bool
    models: tuple[ModelReport, ...]
    made_with: tuple[str, ...] = ()
    warnings: tuple[str, ...]

    @property
    def table(self) -> "Table":
        """The scores, a row a model; with more than `MOST_COLUMNS` conditions, a row a condition."""
        titles = [condition.title for condition in self.plan.spec.conditions]
        names = [model.model for model in self.models]
        scores = [[each.score for each in model.conditions] for model in self.models]
        if len(titles) > MOST_COLUMNS:
            return Table("condition", names, [*zip(titles, map(list, zip(*scores, strict=True)), strict=True)])
        return Table("model", titles, [*zip(names, scores, strict=True)])

    def to_markdown(self) -> str:
        """Write the table, each cell with its 95 % interval, and the protocol below."""
        corner, columns, rows = self.table
        lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(map(format_score, scores))} |" for name, scores in rows]
        lines += ["", *(f"- {fact}" for fact in self.facts())]
        return "\n".join(lines) + "\n"

    def facts(self) -> list[str]:
        """List what one must know to read the table."""
        spec = self.plan.spec
        return [
            *([] if self.complete else ["PARTIAL: not all images are done; every cell is over the images done so far"]),
            f"{spec.dataset}, n = {self.plan.images} images drawn evenly from the classes (selection seed {spec.selection_seed}), "
            f"seed {spec.seed}, {spec.precision}",
            *_class_facts(self.plan),
            *(
                f"{model.model}: {_in_float32(model)} fell in float32 alone, after {spec.precision} had left them standing"
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
            "accuracy in percent with its 95 % Wilson interval; under an attack, robust accuracy: "
            "right on the clean image and under every attack",
            *(
                f"mean corruption error of {model.model}: {_mce(model)}"
                for model in self.models
                if model.mce is not None
            ),
            *(f"trust in {model.model}: {model.verdict}" for model in self.models),
            *(f"WARNING: {warning}" for warning in self.warnings),
            f"evaluation {self.plan.id}, data sha256 {self.plan.dataset_sha256[:12]}",
        ]


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


def _in_float32(model: ModelReport) -> str:
    attacked = [each for each in model.conditions if each.robust_accuracy]
    fell = sum(each.felled_in_float32 for each in attacked)
    return f"{fell} of {sum(each.images_done for each in attacked)} attacked images"


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


def merge(plan: Plan, results: Iterable[ShardResult]) -> Report:
    """Count finished shards together; what is missing makes the report partial.

    Raises:
        ValueError: a shard is there twice, or does not belong to the plan.
    """
    by_shard: dict[Shard, ShardResult] = {}
    for result in results:
        if result.shard in by_shard:
            raise ValueError(f"a shard is counted twice: {result.shard}")
        by_shard[result.shard] = result
    shards = plan.shards
    if strangers := set(by_shard) - set(shards):
        raise ValueError(f"shards that are not of this plan: {sorted(map(str, strangers))}")
    found: dict[tuple[str, int], list[ShardResult]] = {}
    complete = True
    for model in plan.spec.models:
        for index, condition in enumerate(plan.spec.conditions):
            found[model, index] = counted(plan, model, condition, by_shard.values())
            done = sum(each.shard.images for each in found[model, index]) == plan.images
            complete = complete and (done or sufficient(plan, model, condition, found[model, index]) is not None)
    reports = _with_rivals(_model(plan, model, found, complete=complete) for model in plan.spec.models)
    return Report(
        plan=plan,
        complete=complete,
        models=reports,
        made_with=tuple(sorted({result.made_with for result in by_shard.values()} - {""})),
        warnings=(*_notices(plan), *_warnings(reports)),
    )


def counted(plan: Plan, model: str, condition: Condition, results: Iterable[ShardResult]) -> list[ShardResult]:
    """The shards of a model and condition that a report counts: those that suffice, else all that are there, in their order."""
    place = plan.spec.conditions.index(condition)
    mine = [each for each in results if (each.shard.model, each.shard.condition) == (model, place)]
    counted = sufficient(plan, model, condition, mine) or sorted(mine, key=lambda each: each.shard.start)
    return [each.worst for each in counted]


def sufficient(
    plan: Plan, model: str, condition: Condition, results: Iterable[ShardResult]
) -> list[ShardResult] | None:
    """The first shards of a model and condition that make the interval of its score as narrow as was asked.

    It does not matter which further shards are there: the first that suffice are the same in whatever order they are computed.

    Returns:
        The shards in their order; None where nothing was asked, or the shards without a gap do not suffice (yet).
    """
    if plan.spec.stop_width is None:
        return None
    place = plan.spec.conditions.index(condition)
    mine = (each for each in results if (each.shard.model, each.shard.condition) == (model, place))
    taken: list[ShardResult] = []
    count = n = 0
    for result in sorted(mine, key=lambda each: each.shard.start):
        if result.shard.start != n:
            return None
        taken.append(result)
        count, n = count + sum(row.counts(condition) for row in result.rows), n + len(result.rows)
        score = proportion(count, n)
        if score is not None and score.high - score.low <= plan.spec.stop_width:
            return taken
    return None


def _model(plan: Plan, model: str, found: dict[tuple[str, int], list[ShardResult]], *, complete: bool) -> ModelReport:
    conditions: list[ConditionReport] = []
    checks: list[Check] = []
    for index, condition in enumerate(plan.spec.conditions):
        results = found[model, index]
        rows = [row for result in results for row in result.rows]
        conditions.append(_condition(plan, model, index, results))
        checks += [check for result in results for check in result.preflight]
        about = [*(check for result in results for check in result.checks), *condition_checks(condition, rows)]
        checks += [check.model_copy(update={"about": condition.title}) for check in about]
        if index == 0 and rows:
            checks += _clean_checks(plan, model, rows)
    checks += cross_checks(plan.spec, [each.robust_accuracy for each in conditions])
    errors = _corruption_errors(plan, conditions)
    return ModelReport(
        model=model,
        conditions=tuple(conditions),
        checks=tuple(checks),
        grade=grade(checks, complete=complete),
        tried=_tried(plan, conditions),
        mce=mean_corruption_error(errors) if errors else None,
        mce_of_alexnet=mean_corruption_error(errors, ALEXNET)
        if errors and plan.choices(model) == IMAGENET_CLASSES
        else None,
    )


def _clean_checks(plan: Plan, model: str, rows: Sequence[Row]) -> Iterable[Check]:
    """Compare clean accuracy with chance, and with what the card claims."""
    yield chance_check(rows, plan.choices(model))
    if model in plan.claimed_accuracy:
        yield claim_check(rows, plan.claimed_accuracy[model])
    elif claim := plan.other_claims.get(model):
        yield distant_claim_check(rows, *claim)


def _with_rivals(reports: Iterable[ModelReport]) -> tuple[ModelReport, ...]:
    """Compare each model's clean accuracy with the best of the others'."""
    every = [*reports]
    clean = {each.model: score for each in every if (score := each.conditions[0].clean_accuracy)}
    compared: list[ModelReport] = []
    for report in every:
        others = {name: score for name, score in clean.items() if name != report.model}
        if report.model not in clean or not others:
            compared.append(report)
            continue
        rival = max(others, key=lambda name: others[name].value)
        check = rival_check(clean[report.model], others[rival], rival)
        checks = (*report.checks, check)
        worst = grade(checks, complete=report.grade != "unchecked")
        compared.append(report.model_copy(update={"checks": checks, "grade": worst}))
    return tuple(compared)


def _tried(plan: Plan, conditions: Sequence[ConditionReport]) -> tuple[str, ...]:
    """Name the attacks that were run, unless a cascade has all of the preset standard."""
    standard = {choice.name for choice in standard_attacks()}
    names: dict[str, None] = {}
    for asked, found in zip(plan.spec.conditions, conditions, strict=True):
        if isinstance(asked, Attacking):
            if standard <= {choice.name for choice in asked.attacks}:
                return ()
            titles = (choice.create().title for choice in asked.attacks)
            names |= {re.sub(r"-\d+\b", "", title): None for title in titles if title not in found.not_run}
    return tuple(names)


def _corruption_errors(plan: Plan, conditions: Sequence[ConditionReport]) -> dict[str, float]:
    """Mean error over the severities of each common corruption; empty unless all fifteen were seen at all five."""
    errors: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for asked, found in zip(plan.spec.conditions, conditions, strict=True):
        if isinstance(asked, TransformCondition) and asked.name == "corruption" and found.accuracy:
            errors.setdefault(str(asked.parameters["name"]), []).append(1 - found.accuracy.value)
    complete = all(len(errors[name]) == SEVERITIES for name in CORRUPTIONS)
    return {name: sum(errors[name]) / SEVERITIES for name in CORRUPTIONS} if complete else {}


def _condition(plan: Plan, model: str, index: int, results: Sequence[ShardResult]) -> ConditionReport:
    condition = plan.spec.conditions[index]
    rows = [row for result in results for row in result.rows]
    n = len(rows)
    clean_right = sum(row.clean_prediction == row.label for row in rows)
    right = sum(row.prediction == row.label for row in rows)
    felled = sum(row.felled_by is not None for row in rows)
    not_run = tuple(dict.fromkeys(title for result in results for title in result.not_run))
    attacked = isinstance(condition, Attacking)
    if isinstance(condition, Attacking) and len(not_run) == len(condition.attacks):  # nothing was tried, nothing counts
        attacked, right = False, clean_right
    nothing_tried = isinstance(condition, Attacking) and not attacked
    targeted = condition.kind == "adversarial" and condition.targets is not None
    eps = condition.eps if condition.kind == "curve" and rows else ()
    return ConditionReport(
        title=condition.title,
        images_done=n,
        clean_accuracy=proportion(clean_right, n),
        accuracy=None if nothing_tried else proportion(right, n),
        top5_accuracy=proportion(sum(row.rank < TOP_K for row in rows), n)
        if plan.choices(model) > TOP_K and not nothing_tried
        else None,
        drop=(clean_right - right) / n if n and not nothing_tried else None,
        robust_accuracy=proportion(clean_right - felled, n) if attacked else None,
        attack_success_rate=proportion(felled, clean_right) if attacked else None,
        target_rate=proportion(sum(row.reached is True for row in rows), n) if targeted else None,
        curve=tuple(
            CurvePoint(eps=radius, robust_accuracy=each) for radius, each in zip(eps, curve(rows, eps), strict=True)
        ),
        median_minimal_eps=median_minimal_eps(rows) if eps else None,
        not_run=not_run,
        felled_in_float32=sum(row.felled_in_float32 for row in rows),
        outside_budget=tuple(row.index for row in rows if not row.within_budget),
        seconds=sum(result.seconds for result in results),
        images_forwarded=sum(result.images_forwarded for result in results),
        examples=tuple(example for result in results for example in result.examples),
    )


def _notices(plan: Plan) -> Iterable[str]:
    """What attacks do differently with this number of classes."""
    numbers = sorted({plan.choices(model) for model in plan.spec.models})
    for condition in plan.spec.conditions:
        for choice in condition.attacks if isinstance(condition, Attacking) else ():
            attack = choice.create()
            if isinstance(attack, ClassDependent):
                yield from (f"{condition.title}: {notice}" for each in numbers if (notice := attack.notice(each)))


def _warnings(reports: Sequence[ModelReport]) -> Iterable[str]:
    for model in reports:
        for check in model.failed:
            shown = ", ".join(map(str, check.images[:10])) + (" ..." if len(check.images) > 10 else "")
            images = f" (images {shown})" if check.images else ""
            about = f", {check.about}" if check.about else ""
            yield f"{model.model}{about}: {check.message}{images} [{check.means}]"
