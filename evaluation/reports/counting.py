"""From finished shards to a report: a pure function, at any moment."""

import re
from collections.abc import Iterable, Mapping, Sequence

from attacks import Approximate, ClassDependent
from attacks.transforms.corruptions import CORRUPTIONS
from evaluation.compute.checks import Check, grade
from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.presets import standard_attacks
from evaluation.reports.claims import with_verdict
from evaluation.reports.mce import ALEXNET, mean_corruption_error
from evaluation.reports.report import ConditionReport, CurvePoint, ModelReport, PassesReport, Report
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
from evaluation.results.tally import TOP_K, Tally
from evaluation.results.totals import Totals
from evaluation.spec import Attacking, Condition, CurveCondition, TransformCondition
from evaluation.statistics import Proportion, proportion, share_of_passes

SEVERITIES = 5
IMAGENET_CLASSES = 1000


def merge(plan: Plan, results: Iterable[ShardResult]) -> Report:
    """Count finished shards together; what is missing makes the report partial; raises as `Totals` does."""
    return report_of(Totals(plan, (Tally.of(plan, each) for each in results)))


def report_of(totals: Totals) -> Report:
    """Make a report of what finished shards add up to."""
    plan, complete = totals.plan, totals.is_complete
    tallies = {key: each.tally for key, each in totals.by_condition.items()}
    compared = _with_rivals(_model(plan, model, tallies, complete=complete) for model in plan.spec.models)
    reports = tuple(with_verdict(plan, each) for each in compared)
    return Report(
        plan=plan,
        complete=complete,
        models=reports,
        made_with=tuple(sorted({each for tally in tallies.values() for each in tally.made_with})),
        warnings=(*_notices(plan), *_of_randomised(plan, reports), *_warnings(reports)),
    )


def _model(plan: Plan, model: str, totals: Mapping[tuple[str, int], Tally], *, complete: bool) -> ModelReport:
    conditions: list[ConditionReport] = []
    checks: list[Check] = []
    for index, condition in enumerate(plan.spec.conditions):
        total = totals[model, index]
        conditions.append(_condition(plan, model, condition, total))
        checks += total.preflight
        about = [*total.checks, *condition_checks(condition, total)]
        checks += [check.model_copy(update={"about": condition.title}) for check in about]
        if index == 0 and total.images:
            checks += _clean_checks(plan, model, total)
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


def _clean_checks(plan: Plan, model: str, total: Tally) -> Iterable[Check]:
    """Compare clean accuracy with chance, and with what the card claims."""
    yield chance_check(total, plan.choices(model))
    if model in plan.claimed_accuracy:
        yield claim_check(total, plan.claimed_accuracy[model])
    elif claim := plan.other_claims.get(model):
        yield distant_claim_check(total, *claim)


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


def _condition(plan: Plan, model: str, condition: Condition, total: Tally) -> ConditionReport:
    n, right = total.images, total.right
    not_run = tuple(dict.fromkeys(total.not_run))
    attacked = isinstance(condition, Attacking)
    if isinstance(condition, Attacking) and len(not_run) == len(condition.attacks):  # nothing was tried, nothing counts
        attacked, right = False, total.clean_right
    nothing_tried = isinstance(condition, Attacking) and not attacked
    targeted = condition.kind == "adversarial" and condition.targets is not None
    eps = condition.eps if condition.kind == "curve" and n else ()
    clean, under = _passes_counted(condition, total)
    return ConditionReport(
        title=condition.title,
        images_done=n,
        clean_accuracy=_score(plan, clean, proportion(total.clean_right, n)),
        accuracy=None if nothing_tried else _score(plan, under, proportion(right, n)),
        top5_accuracy=proportion(total.in_top5, n) if plan.choices(model) > TOP_K and not nothing_tried else None,
        drop=_drop(plan, total, clean, under, right) if n and not nothing_tried else None,
        robust_accuracy=_score(plan, under, proportion(total.clean_right - total.flipped, n)) if attacked else None,
        attack_success_rate=proportion(total.flipped, total.clean_right) if attacked else None,
        target_rate=proportion(total.reached, n) if targeted else None,
        curve=tuple(
            CurvePoint(eps=radius, robust_accuracy=each) for radius, each in zip(eps, curve(total, eps), strict=True)
        ),
        median_minimal_eps=median_minimal_eps(total) if eps else None,
        not_run=not_run,
        flipped_in_float32=total.flipped_in_float32,
        outside_budget=total.outside_budget,
        seconds=total.seconds,
        images_forwarded=total.images_forwarded,
        examples=total.examples,
        passes=_passes(plan, total) if total.passes else None,
    )


def _passes_counted(condition: Condition, total: Tally) -> tuple[dict[int, int], dict[int, int]]:
    """Images by their number of right passes, as they are and under the condition; nothing where images are counted."""
    return (total.clean_passes, {} if isinstance(condition, CurveCondition) else total.passes)


def _score(plan: Plan, passes: dict[int, int], counted: Proportion | None) -> Proportion | None:
    """The share of right passes of a randomised model, the share of right images of any other."""
    return share_of_passes(passes, plan.spec.judged_passes) if passes else counted


def _drop(plan: Plan, total: Tally, clean: dict[int, int], under: dict[int, int], right: int) -> float:
    if not under:
        return (total.clean_right - right) / total.images
    before, after = (sum(count * images for count, images in each.items()) for each in (clean, under))
    return (before - after) / (plan.spec.judged_passes * total.images)


def _passes(plan: Plan, total: Tally) -> PassesReport:
    n, every = total.images, plan.spec.judged_passes

    def most(passes: dict[int, int]) -> Proportion | None:
        return proportion(sum(images for right, images in passes.items() if 2 * right > every), n)

    return PassesReport(
        eot_passes=plan.spec.eot_passes,
        judged_passes=every,
        clean_in_all=proportion(total.clean_passes.get(every, 0), n),
        clean_in_most=most(total.clean_passes),
        in_all=proportion(total.passes.get(every, 0), n),
        in_most=most(total.passes),
    )


def _notices(plan: Plan) -> Iterable[str]:
    """What attacks do differently with this number of classes."""
    numbers = sorted({plan.choices(model) for model in plan.spec.models})
    for condition in plan.spec.conditions:
        for choice in condition.attacks if isinstance(condition, Attacking) else ():
            attack = choice.create()
            if isinstance(attack, ClassDependent):
                yield from (f"{condition.title}: {notice}" for each in numbers if (notice := attack.notice(each)))


def _of_randomised(plan: Plan, reports: Iterable[ModelReport]) -> Iterable[str]:
    """Which attacks say little about a randomised model."""
    for report in reports:
        for asked, found in zip(plan.spec.conditions, report.conditions, strict=True):
            for choice in asked.attacks if found.passes and isinstance(asked, Attacking) else ():
                attack = choice.create()
                if isinstance(attack, Approximate):
                    yield f"{report.model}, {found.title}: {attack.title} {attack.of_randomised}"


def _warnings(reports: Sequence[ModelReport]) -> Iterable[str]:
    for model in reports:
        for check in model.failed:
            shown = ", ".join(map(str, check.images[:10])) + (" ..." if len(check.images) > 10 else "")
            images = f" (images {shown})" if check.images else ""
            about = f", {check.about}" if check.about else ""
            yield f"{model.model}{about}: {check.message}{images} [{check.means}]"
