"""Scores class by class: which classes fall, what they are taken for, and on which two models differ."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.validation import Frozen
from evaluation.compute.conditions import Row
from evaluation.plan import Plan
from evaluation.spec import Condition
from evaluation.statistics import Proportion, holm, mcnemar, share

NOT_FINITE = "no class: a logit is not finite"
"""What an image is taken for that has no prediction."""


class ClassResult(Frozen):
    """One class under one condition.

    Attributes:
        name: of the class.
        clean_accuracy: right as they are / n, its images.
        score: right under the condition / n; where something attacks, right as they are and not flipped / n.
        taken_for: under the condition, how many of its images were taken for which class, itself too; the most frequent first.
    """

    name: str
    clean_accuracy: Proportion
    score: Proportion
    taken_for: dict[str, int]


class ClassDifference(Frozen):
    """Two models on the images of one class.

    Attributes:
        name: of the class.
        n: its images.
        difference: score of the first minus that of the second.
        p_holm: of `mcnemar`, adjusted for the number of classes (Holm 1979).
    """

    name: str
    n: int
    difference: float
    p_holm: float


def logit_names(plan: Plan, model: str, classes: Sequence[str]) -> list[str]:
    """Name what the labels and predictions of a model's rows stand for.

    Args:
        plan: of the evaluation.
        model: one of its models.
        classes: the model's, in the order of its logits; empty if they are not known any more.
    """
    match = plan.matches[model]
    columns = match.columns if plan.spec.logits == "dataset" else range(match.model_classes)
    return [classes[column] if classes else f"class {column}" for column in columns]


def score_classes(names: Sequence[str], condition: Condition, rows: Iterable[Row]) -> list[ClassResult]:
    """Count each class that has images, the lowest score first."""
    found = (
        ClassResult(
            name=names[label],
            clean_accuracy=_share(row.clean_prediction == row.label for row in mine),
            score=_share(row.counts(condition) for row in mine),
            taken_for=dict(Counter(_name(names, row.prediction) for row in mine).most_common()),
        )
        for label, mine in _by_label(rows).items()
    )
    return sorted(found, key=lambda each: (each.score.value, each.name))


def compare_classes(
    names: Sequence[str], rows: Iterable[Row], right: Mapping[int, tuple[bool, bool]]
) -> list[ClassDifference]:
    """Find the classes of whose images one model gets more right than the other, the largest difference first.

    Args:
        names: of the labels in the rows.
        rows: of one of the models.
        right: by the index of each image that both saw, whether the first and the second model get it right.
    """
    seen = _by_label(row for row in rows if row.index in right)
    pairs = {names[label]: [right[row.index] for row in mine] for label, mine in seen.items()}
    alone = {name: (each.count((True, False)), each.count((False, True))) for name, each in pairs.items()}
    adjusted = dict(zip(alone, holm([mcnemar(*each) for each in alone.values()]), strict=True))
    found = (
        ClassDifference(
            name=name, n=len(pairs[name]), difference=(first - second) / len(pairs[name]), p_holm=adjusted[name]
        )
        for name, (first, second) in alone.items()
        if first != second
    )
    return sorted(found, key=lambda each: (-abs(each.difference), each.name))


def _by_label(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.label].append(row)
    return found


def _share(right: Iterator[bool]) -> Proportion:
    every = [*right]
    return share(sum(every), len(every))


def _name(names: Sequence[str], logit: int | None) -> str:
    return NOT_FINITE if logit is None else names[logit]
