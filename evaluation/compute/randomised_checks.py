"""Whether a number of a randomised model can be trusted, from what attacks did to its first images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from attacks import Norm, ThreatModel
from evaluation.choices import AttackChoice, Averaging
from evaluation.compute.checks import EXTREME_EPS, Check
from evaluation.compute.conditions import Batch, Row
from evaluation.compute.randomised import run_randomised
from evaluation.spec import AdversarialCondition, Attacking, EvaluationSpec
from evaluation.statistics import proportion

CHECKED = 16
"""Images that are looked at, at most: each takes many passes."""

EXTREMES = 8
"""Of those, the images that are attacked with the extreme radius."""

BEYOND_CHANCE = 2.58
"""Standard errors by which a weaker attack must be ahead: one case in 200."""

_WEAKER = {"noise": "noise does not beat the attack", "fgsm": "a single step does not beat the attack"}


def check_randomised(
    spec: EvaluationSpec, condition: int, batch: Batch, rows: Sequence[Row], averaging: Averaging
) -> tuple[Check, ...]:
    """Check what a condition, given by its place, did to its first images; the extreme radius once per model.

    Args:
        spec: of the evaluation.
        condition: checked where it attacks; with the first of those comes the extreme radius.
        batch: the first images, at most `CHECKED` of which are looked at.
        rows: what came of them.
        averaging: how the model is evaluated.
    """
    asked = spec.conditions[condition]
    if not isinstance(asked, Attacking) or getattr(asked, "targets", None) or not batch.has_gradient:
        return ()
    few = _first(batch, CHECKED)
    threat = asked.threat if isinstance(asked, AdversarialCondition) else asked.threats[-1]
    known = {row.index: row.correct or 0 for row in rows}
    comparable = isinstance(asked, AdversarialCondition) and threat.norm in (Norm.LINF, Norm.L2) and threat.eps > 0
    return (
        *(
            _weaker(name, title, known, _attack(few, AttackChoice(name=name), threat, averaging))
            for name, title in _WEAKER.items()
            if comparable and len(few.images) > 1
        ),
        *([_extreme(_first(batch, EXTREMES), averaging)] if condition == spec.attacking[0] else []),
    )


def _first(batch: Batch, count: int) -> Batch:
    few = slice(count)
    return replace(batch, images=batch.images[few], labels=batch.labels[few], indices=batch.indices[few])


def _attack(batch: Batch, choice: AttackChoice, threat: ThreatModel, averaging: Averaging) -> list[Row]:
    condition = AdversarialCondition(threat=threat, attacks=(choice,))
    return run_randomised(condition, batch, averaging).rows(batch)


def _weaker(name: str, title: str, known: Mapping[int, int], rows: Sequence[Row]) -> Check:
    """The passes are those by which the attack was judged, so that images differ only by what the attacks did."""
    ahead = [known[row.index] - (row.correct or 0) for row in rows]
    failed = fmean(ahead) > BEYOND_CHANCE * stdev(ahead) / math.sqrt(len(ahead))
    left, by_attack = sum(row.correct or 0 for row in rows), sum(known[row.index] for row in rows)
    found = f"on {len(rows)} images {name} leaves {left} passes right, the attack {by_attack}"
    return Check(
        name=title,
        failed=failed,
        means="suspicious",
        message=f"{found}: it is not as strong as it should be; take more steps, restarts or eot_passes"
        if failed
        else found,
        images=tuple(row.index for row, each in zip(rows, ahead, strict=True) if each > 0) if failed else (),
    )


def _extreme(batch: Batch, averaging: Averaging) -> Check:
    """Attack with a radius at which nothing can stand above chance; see `EXTREME_EPS`."""
    choice = AttackChoice(name="pgd", parameters={"steps": 20, "step_size": EXTREME_EPS / 4})
    rows = _attack(batch, choice, ThreatModel(Norm.LINF, EXTREME_EPS), averaging)
    standing = [row.index for row in rows if row.clean_right and row.right]
    found = proportion(len(standing), len(rows))
    failed = found is not None and found.low > 1 / len(batch.classifier.columns or batch.classifier.card.classes)
    return Check(
        name="nothing stands at eps 0.5",
        failed=failed,
        means="invalid",
        message=f"{len(standing)} of {len(rows)} images withstand PGD-20 at Linf {EXTREME_EPS} in most passes, where every image "
        "can be made grey: the gradients mislead, and robust accuracy found with them means nothing"
        if failed
        else f"{len(standing)} of {len(rows)} images stand at Linf {EXTREME_EPS} in most passes, not above chance",
        images=tuple(standing) if failed else (),
    )
