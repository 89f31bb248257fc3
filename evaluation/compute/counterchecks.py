"""Attacks of another kind on what an attack left standing: a gradient that misleads one need not mislead them.

They are compared with a *control*, the same attack once more with other draws: what only a countercheck flips, and more often than
chance allows, tells of a gradient that is masked (Carlini et al. 2019, arXiv:1902.06705, Sec. 4 and 5).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

import attacks
import models
from attacks import Attack, AttackRun, Norm, ThreatModel
from evaluation.choices import AttackChoice
from evaluation.compute.checks import PROBE_STREAM, Check
from evaluation.compute.conditions import Batch, Outcome, Row
from evaluation.spec import AdversarialCondition, Attacking, Condition
from evaluation.statistics import binomial_below

CHECKED = 24
"""Standing images that are looked at, at most."""

LOOKED_AT_FIRST = 12
"""Of those, the images that are looked at first: where a countercheck flips none that the control does not, that is all. What flips
three tenths of all images, the least that is significant among `CHECKED`, flips none of 12 in one case of 70."""

LEAST = 7
"""Standing images below which not even flipping all of them would be significant: 2 ** -7 is the first below `SIGNIFICANT`."""

TRANSFER_SOURCES = 2
"""Other models whose adversarial images are tried, at most."""

SIGNIFICANT = 0.01
"""p value of McNemar's exact one-sided test below which a countercheck has found more than the control."""

_SMOOTHED = AttackChoice(name="smoothed_pgd")
_SQUARE = AttackChoice(name="square", parameters={"queries": 200})
_ON_SOURCE = AttackChoice(name="pgd", parameters={"steps": 10, "counts": "last_step"})


def checked_attack(condition: Condition) -> AttackChoice | None:
    """The attack of a condition whose gradient is checked: its first that uses one; None where nothing is to be checked."""
    if not isinstance(condition, Attacking) or getattr(condition, "targets", None):
        return None
    norm = _threat(condition).norm
    if norm not in (Norm.LINF, Norm.L2):
        return None
    return next((choice for choice in condition.attacks if choice.create().uses_gradient), None)


def _threat(condition: Attacking) -> ThreatModel:
    return condition.threat if isinstance(condition, AdversarialCondition) else condition.threats[-1]


@dataclass(frozen=True)
class _Made:
    """An attack whose images were made elsewhere."""

    images: Tensor
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    targetable: ClassVar[bool] = False
    uses_gradient: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """Always "transfer"."""
        return "transfer"

    @property
    def passes(self) -> int:
        """None through the model."""
        return 0

    def perturb(self, task: attacks.Task) -> attacks.Proposal:
        """See `attacks.Attack.perturb`."""
        return attacks.Proposal(self.images)


def counterchecks(
    condition: Condition, batch: Batch, sources: Sequence[models.Classifier]
) -> tuple[tuple[Check, ...], tuple[Row, ...]]:
    """Attack images that a condition's attacks left standing by smoothed gradients, transfer and Square.

    Args:
        condition: whose attacks left them.
        batch: the images, right and standing; the first `LOOKED_AT_FIRST` are looked at, or `CHECKED` where something is found.
        sources: other classifiers of the same classes and sizes, see `TRANSFER_SOURCES`.

    Returns:
        A check for each countercheck, and a row for each image that those which failed have flipped.
    """
    choice = checked_attack(condition)
    if choice is None or not isinstance(condition, Attacking) or not batch.has_gradient or not len(batch.images):
        return (), ()
    batch, threat = _first(batch, CHECKED), _threat(condition)
    control = _run(choice.create(), batch, threat)
    checks: list[Check] = []
    rows: dict[int, Row] = {}
    for by, explanation, make in _attacks(threat, sources):
        looked_at = _first(batch, LOOKED_AT_FIRST)
        run = _run(make(looked_at), looked_at, threat)
        if (run.flipped & ~control.flipped[: len(looked_at.images)]).any():
            looked_at, run = batch, _run(make(batch), batch, threat)
        check = _compare(by, explanation, choice, control.flipped[: len(looked_at.images)], run.flipped, looked_at)
        checks.append(check)
        if check.failed:
            rows |= {row.index: row for row in _flipped_rows(by, batch, run) if row.index not in rows}
    return tuple(checks), tuple(rows.values())


def _first(batch: Batch, count: int) -> Batch:
    few = slice(count)
    return replace(batch, images=batch.images[few], labels=batch.labels[few], indices=batch.indices[few])


def _attacks(
    threat: ThreatModel, sources: Sequence[models.Classifier]
) -> Iterator[tuple[str, str, Callable[[Batch], Attack]]]:
    yield "smoothed_pgd", "along gradients averaged over noisy copies", lambda _: _SMOOTHED.create()
    yield "square", "without gradients", lambda _: _SQUARE.create()
    for source in sources[:TRANSFER_SOURCES]:
        yield (
            "transfer",
            "with images made for another model",
            lambda batch, source=source: _Made(_on_source(batch, threat, source)),
        )


def _on_source(batch: Batch, threat: ThreatModel, source: models.Classifier) -> Tensor:
    """Adversarial images (N, C, H, W) for another model, whose classes may be in another order."""
    names = source.card.classes
    numbers = [names.index(batch.classifier.card.classes[batch.logit(label) or 0]) for label in batch.labels.tolist()]
    draws, labels = batch.draws.stream(PROBE_STREAM), torch.tensor(numbers).to(batch.labels)
    return _ON_SOURCE.create().perturb(attacks.Task(source, batch.images, labels, threat, draws)).images


def _run(attack: Attack, batch: Batch, threat: ThreatModel) -> AttackRun:
    return attacks.run_attack(
        attack,
        batch.classifier,
        batch.images,
        batch.labels,
        threat=threat,
        draws=batch.draws.stream(PROBE_STREAM),
    )


def _compare(by: str, explanation: str, choice: AttackChoice, control: Tensor, flipped: Tensor, batch: Batch) -> Check:
    """What came of N images: whether the control flipped them, and whether the countercheck did, both (N,) bool."""
    only, lost = flipped & ~control, control & ~flipped
    failed = binomial_below(int(lost.sum()), int((only | lost).sum()), 0.5) < SIGNIFICANT
    title = choice.create().title
    found = (
        f"of {len(batch.images)} images that stand, an attack {explanation} ({by}) flips {int(flipped.sum())}, {title} with "
        f"other draws {int(control.sum())}"
    )
    return Check(
        name=f"{by} flips no more than {choice.name} does",
        failed=failed,
        means="suspicious",
        message=f"{found}: the gradient misleads {title}; what was flipped counts, but only in the first images, so that robust "
        "accuracy is lower than this on all of them"
        if failed
        else found,
        images=tuple(index for index, flipped in zip(batch.indices, only.tolist(), strict=True) if flipped)
        if failed
        else (),
    )


def _flipped_rows(by: str, batch: Batch, run: AttackRun) -> Iterator[Row]:
    total = Outcome.of(batch)
    total.take(batch, torch.ones_like(run.flipped), run, by=by)
    return (row for row in total.rows(batch) if row.flipped_by)
