"""From finished shards to numbers people can read: a pure function, at any moment."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from evaluation.plan import Plan, Shard
from evaluation.runner import ShardResult
from evaluation.statistics import Proportion, proportion

TOP_K = 5

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class ConditionReport(BaseModel):
    """One model under one condition. Every fraction is over the images done so far and has its n.

    Attributes:
        title: of the condition.
        images_done: images with a result.
        accuracy: right under the condition / n.
        top5_accuracy: right class among the five largest logits / n; None with five classes or fewer.
        drop: clean accuracy minus accuracy, on the same images.
        robust_accuracy: right on the clean image and not felled within budget / n; None where nothing attacks.
        attack_success_rate: felled within budget / right on the clean image.
        target_rate: predicted as the target, within budget / n; None without targets.
        outside_budget: indices of images where an attack left the ball or [0, 1], or returned NaN; they count as standing.
        seconds: of computing, summed over shards.
        images_forwarded: passes of an image through the model.
    """

    model_config = _FROZEN

    title: str
    images_done: int
    accuracy: Proportion | None
    top5_accuracy: Proportion | None
    drop: float | None
    robust_accuracy: Proportion | None
    attack_success_rate: Proportion | None
    target_rate: Proportion | None
    outside_budget: tuple[int, ...]
    seconds: float
    images_forwarded: int

    @property
    def score(self) -> Proportion | None:
        """The number a table shows: robust accuracy where something attacks, else accuracy."""
        return self.robust_accuracy or self.accuracy


class ModelReport(BaseModel):
    """One model under all conditions, in the order of the specification."""

    model_config = _FROZEN

    model: str
    conditions: tuple[ConditionReport, ...]


class Report(BaseModel):
    """What an evaluation found, with the plan it followed; `complete` is False while shards are missing."""

    model_config = _FROZEN

    schema_version: int = 1
    plan: Plan
    complete: bool
    models: tuple[ModelReport, ...]
    warnings: tuple[str, ...]

    def to_markdown(self) -> str:
        """Write a table, one row a model, each cell with its 95 % interval, and the protocol below."""
        spec = self.plan.spec
        titles = [condition.title for condition in spec.conditions]
        lines = [f"| model | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        for model in self.models:
            lines.append(f"| {model.model} | {' | '.join(format_score(each.score) for each in model.conditions)} |")
        lines += ["", *(f"- {fact}" for fact in self.facts())]
        return "\n".join(lines) + "\n"

    def facts(self) -> list[str]:
        """List what one must know to read the table."""
        spec = self.plan.spec
        return [
            *([] if self.complete else ["PARTIAL: not all images are done; every cell is over the images done so far"]),
            f"{spec.dataset}, n = {self.plan.images} images drawn evenly from the classes, seed {spec.seed}, {spec.precision}",
            "accuracy in percent with its 95 % Wilson interval; under an attack, robust accuracy: "
            "right on the clean image and under every attack",
            *(f"WARNING: {warning}" for warning in self.warnings),
            f"evaluation {self.plan.id}, data sha256 {self.plan.dataset_sha256[:12]}",
        ]


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
    reports = tuple(
        ModelReport(
            model=model,
            conditions=tuple(
                _condition(
                    plan,
                    index,
                    [by_shard[s] for s in shards if (s.model, s.condition) == (model, index) and s in by_shard],
                )
                for index in range(len(plan.spec.conditions))
            ),
        )
        for model in plan.spec.models
    )
    return Report(plan=plan, complete=len(by_shard) == len(shards), models=reports, warnings=tuple(_warnings(reports)))


def _condition(plan: Plan, index: int, results: Sequence[ShardResult]) -> ConditionReport:
    condition = plan.spec.conditions[index]
    rows = [row for result in results for row in result.rows]
    n = len(rows)
    clean_right = sum(row.clean_prediction == row.label for row in rows)
    right = sum(row.prediction == row.label for row in rows)
    felled = sum(row.felled_by is not None for row in rows)
    attacked = condition.kind == "adversarial"
    targeted = attacked and condition.targets is not None
    return ConditionReport(
        title=condition.title,
        images_done=n,
        accuracy=proportion(right, n),
        top5_accuracy=proportion(sum(row.rank < TOP_K for row in rows), n) if plan.classes > TOP_K else None,
        drop=(clean_right - right) / n if n else None,
        robust_accuracy=proportion(clean_right - felled, n) if attacked else None,
        attack_success_rate=proportion(felled, clean_right) if attacked else None,
        target_rate=proportion(sum(row.reached is True for row in rows), n) if targeted else None,
        outside_budget=tuple(row.index for row in rows if not row.within_budget),
        seconds=sum(result.seconds for result in results),
        images_forwarded=sum(result.images_forwarded for result in results),
    )


def _warnings(reports: Sequence[ModelReport]) -> Iterable[str]:
    for model in reports:
        for condition in model.conditions:
            if bad := condition.outside_budget:
                shown = ", ".join(map(str, bad[:10])) + (" ..." if len(bad) > 10 else "")
                yield (
                    f"{model.model}, {condition.title}: {len(bad)} adversarial images lie outside the budget or hold NaN "
                    f"and count as standing (images {shown})"
                )
