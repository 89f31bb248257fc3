"""From finished shards to a report: a pure function, at any moment."""

import re
from collections.abc import Iterable, Sequence

from attacks import ClassDependent
from attacks.transforms.corruptions import CORRUPTIONS
from evaluation.compute.checks import Check, grade
from evaluation.compute.conditions import Row
from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan, Shard
from evaluation.presets import standard_attacks
from evaluation.reports.mce import ALEXNET, mean_corruption_error
from evaluation.reports.report import ConditionReport, CurvePoint, ModelReport, Report
from evaluation.reports.trust import (
    chance_check,
    claim_check,
    condition_checks,
    cross_checks,
    curve,
    distant_claim_check,
    median_minimal_eps,
    rival_check,
)
from evaluation.results.stopping import Tally, images_needed
from evaluation.spec import Attacking, TransformCondition
from evaluation.statistics import proportion

TOP_K = 5
SEVERITIES = 5
IMAGENET_CLASSES = 1000


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
    found = counted(plan, by_shard.values())
    complete = all(is_complete(plan, results) for results in found.values())
    reports = _with_rivals(_model(plan, model, found, complete=complete) for model in plan.spec.models)
    return Report(
        plan=plan,
        complete=complete,
        models=reports,
        made_with=tuple(sorted({result.made_with for result in by_shard.values()} - {""})),
        warnings=(*_notices(plan), *_warnings(reports)),
    )


def counted(plan: Plan, results: Iterable[ShardResult]) -> dict[tuple[str, int], list[ShardResult]]:
    """Choose what a report counts, by model and condition: the first shards that suffice, else all that are there, in order."""
    found: dict[tuple[str, int], list[ShardResult]] = {
        (model, condition): [] for model in plan.spec.models for condition in range(len(plan.spec.conditions))
    }
    for result in sorted(results, key=lambda each: each.shard.start):
        found[result.shard.model, result.shard.condition].append(result)
    for key, mine in found.items():
        needed = images_needed(plan, (Tally.of(plan, each) for each in mine))
        found[key] = [each for each in mine if needed is None or each.shard.start < needed]
    return found


def is_complete(plan: Plan, counted: Sequence[ShardResult]) -> bool:
    """Whether what is counted of a model and condition is all there is, or as much as was asked."""
    all_there = sum(each.shard.images for each in counted) == plan.images
    return all_there or images_needed(plan, (Tally.of(plan, each) for each in counted)) is not None


def _model(plan: Plan, model: str, found: dict[tuple[str, int], list[ShardResult]], *, complete: bool) -> ModelReport:
    conditions: list[ConditionReport] = []
    checks: list[Check] = []
    for index, condition in enumerate(plan.spec.conditions):
        results = [each.worst for each in found[model, index]]
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
    flipped = sum(row.flipped_by is not None for row in rows)
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
        robust_accuracy=proportion(clean_right - flipped, n) if attacked else None,
        attack_success_rate=proportion(flipped, clean_right) if attacked else None,
        target_rate=proportion(sum(row.reached is True for row in rows), n) if targeted else None,
        curve=tuple(
            CurvePoint(eps=radius, robust_accuracy=each) for radius, each in zip(eps, curve(rows, eps), strict=True)
        ),
        median_minimal_eps=median_minimal_eps(rows) if eps else None,
        not_run=not_run,
        flipped_in_float32=sum(row.flipped_in_float32 for row in rows),
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
