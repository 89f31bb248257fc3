"""What the numbers of one model say about each other: checks that need more than one shard, or more than one condition."""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from attacks import format_eps
from evaluation.compute.checks import Check
from evaluation.results.tally import Tally
from evaluation.spec import AdversarialCondition, Attacking, Condition, EvaluationSpec
from evaluation.statistics import Proportion, binomial_below, proportion

SIGNIFICANT = 0.01
"""p value below which a clean accuracy is less than what the card claims."""


def condition_checks(condition: Condition, total: Tally) -> Iterable[Check]:
    """Check what happened to the images under one condition."""
    wrong, n = total.not_finite, total.images
    yield Check(
        name="logits are finite",
        failed=bool(wrong),
        means="invalid",
        message=f"{len(wrong)} of {n} images have a logit that is not finite, as they are or under the condition; they "
        "count as wrong"
        if wrong
        else "all logits are finite",
        images=wrong,
    )
    if not isinstance(condition, Attacking):
        return
    outside = total.outside_budget
    yield Check(
        name="adversarial images lie in the budget",
        failed=bool(outside),
        means="invalid",
        message=f"{len(outside)} adversarial images lie outside the budget or hold NaN and count as standing"
        if outside
        else "all adversarial images lie within the budget and [0, 1]",
        images=outside,
    )
    names = {choice.name for choice in condition.attacks}
    without = {choice.name for choice in condition.attacks if not choice.create().uses_gradient}
    if without and names - without:
        flipped = total.flipped_without_gradient
        yield Check(
            name="gradient attacks are not beaten without gradients",
            failed=bool(flipped),
            means="suspicious",
            message=f"{len(flipped)} images were flipped by an attack without gradients after those with gradients had failed: "
            "do gradients mislead?"
            if flipped
            else "no image was flipped by an attack without gradients alone",
            images=flipped,
        )


FAR = 0.5
"""Share of what another data set or another model promises below which a clean accuracy is far too low."""


def chance_check(total: Tally, choices: int) -> Check:
    """Compare clean accuracy with that of a guess: always the most frequent class, where all are there; else any of them."""
    right, n = total.clean_right, total.images
    guess = max(total.labels.values()) / n if len(total.labels) == choices else 1 / choices
    score = proportion(right, n)
    failed = score is not None and score.low <= guess
    measured = f"clean accuracy is {right / n:.3f} (n = {n}), a guess has {guess:.3f}"
    return Check(
        name="clean accuracy is above chance",
        failed=failed,
        means="at chance",
        message=f"{measured}, within its interval or above it: what is measured here says nothing about robustness; are classes, "
        "preprocessing and data those of the model?"
        if failed
        else measured,
    )


def distant_claim_check(total: Tally, claimed: float, on: str) -> Check:
    """Compare clean accuracy with what the model's card claims on other data: it may be lower, but not by half."""
    score = proportion(total.clean_right, total.images)
    failed = score is not None and score.high < FAR * claimed
    reached = score.value if score else 0.0
    measured = (
        f"clean accuracy is {reached:.3f} (n = {total.images}), the card claims {claimed:.3f} on {on or 'other data'}"
    )
    return Check(
        name="clean accuracy is not far below the claim",
        failed=failed,
        means="suspicious",
        message=f"{measured}, more than twice as much: are classes and preprocessing those of the model?"
        if failed
        else measured,
    )


def rival_check(score: Proportion, best: Proportion, rival: str) -> Check:
    """Compare clean accuracy with the best of the other models on the same images."""
    failed = score.high < FAR * best.value
    measured = f"clean accuracy is {score.value:.3f} (n = {score.n}), that of {rival} {best.value:.3f}"
    return Check(
        name="clean accuracy is not far below the others'",
        failed=failed,
        means="suspicious",
        message=f"{measured}, more than twice as much: is the preprocessing that of training?" if failed else measured,
    )


def claim_check(total: Tally, claimed: float) -> Check:
    """Compare clean accuracy with what the model's card claims on the same data, by the one-sided exact binomial test."""
    right, n = total.clean_right, total.images
    p = binomial_below(right, n, claimed)
    measured = f"clean accuracy is {right / n:.3f} (n = {n}), the card claims {claimed:.3f}"
    return Check(
        name="clean accuracy is what the card claims",
        failed=p < SIGNIFICANT,
        means="suspicious",
        message=f"{measured} (p = {p:.1g}): is the preprocessing that of training?" if p < SIGNIFICANT else measured,
    )


def cross_checks(spec: EvaluationSpec, scores: Sequence[Proportion | None]) -> Iterable[Check]:
    """Compare attacks that differ in one number: eps, steps or restarts. `scores` are robust accuracies, one per condition."""
    attacked = [
        (condition, score)
        for condition, score in zip(spec.conditions, scores, strict=True)
        if isinstance(condition, AdversarialCondition) and score is not None
    ]
    balls: dict[str, list[tuple[AdversarialCondition, Proportion]]] = {}
    for condition, score in attacked:
        rest = condition.model_dump_json(exclude={"threat": {"eps"}})
        balls.setdefault(rest, []).append((condition, score))
    for family in balls.values():
        for small, large in itertools.combinations(sorted(family, key=lambda each: each[0].threat.eps), 2):
            yield _larger_ball(*small, *large)
    for effort, excluded in _EFFORTS.items():
        families: dict[str, dict[int, Proportion]] = {}
        for condition, score in attacked:
            if (amount := _amount(condition, effort)) is not None:
                rest = condition.model_dump_json(exclude={"attacks": {0: excluded}})
                families.setdefault(rest, {})[amount] = score
        for family in families.values():
            if len(family) > 1:
                yield _more(effort, *sorted(family.items(), key=lambda each: each[0])[-2:])


def _larger_ball(
    small: AdversarialCondition, found: Proportion, large: AdversarialCondition, then: Proportion
) -> Check:
    failed = then.value > found.high
    return Check(
        name="a larger ball flips more",
        failed=failed,
        means="invalid",
        message=f"robust accuracy {'rises' if failed else 'goes'} from {found.value:.3f} at {format_eps(small.threat.eps)} to "
        f"{then.value:.3f} at {format_eps(large.threat.eps)} ({_named(small)})",
    )


def _more(effort: str, few: tuple[int, Proportion], many: tuple[int, Proportion]) -> Check:
    """Compare the two largest numbers of steps or restarts: whether the largest is enough."""
    failed = many[1].value < few[1].low
    return Check(
        name=f"more {effort} change nothing",
        failed=failed,
        means="suspicious",
        message=f"{few[1].value:.3f} stand with {effort} = {few[0]}, {many[1].value:.3f} with {effort} = {many[0]}"
        + (": not converged, try more and quote the largest" if failed else ""),
    )


_EFFORTS: dict[str, Any] = {"steps": {"parameters": {"steps"}}, "restarts": {"restarts"}}
"""What can be raised to see whether an attack has converged, and where it stands in an `AttackChoice`."""


def _amount(condition: AdversarialCondition, effort: str) -> int | None:
    """The steps or restarts of a condition with one attack."""
    if len(condition.attacks) != 1:
        return None
    (attack,) = condition.attacks
    amount = attack.restarts if effort == "restarts" else attack.parameters.get("steps")
    return amount if isinstance(amount, int) else None


def _named(condition: AdversarialCondition) -> str:
    return " + ".join(choice.title for choice in condition.attacks)


def curve(total: Tally, eps: Sequence[float]) -> tuple[Proportion, ...]:
    """Robust accuracy at each radius: right on the clean image, and not flipped at that radius or a smaller one."""

    def standing(radius: float) -> int:
        return total.clean_right - sum(count for at, count in total.flipped_at.items() if at <= radius)

    counted = (proportion(standing(radius), total.images) for radius in eps)
    return tuple(each for each in counted if each is not None)


def median_minimal_eps(total: Tally) -> float | None:
    """Median over all images of the smallest radius that flips them, 0 where wrong already; None if most still stand."""
    wrong, flipped = total.images - total.clean_right, sum(total.flipped_at.values())
    fell_at = (
        [0.0] * wrong + sorted(Counter(total.flipped_at).elements()) + [float("inf")] * (total.clean_right - flipped)
    )
    middle = statistics.median(fell_at) if fell_at else float("inf")
    return None if middle == float("inf") else middle
