"""Whether a number can be trusted, from what attacks did."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

import attacks
from attacks import AttackRun, Norm, ThreatModel
from common.validation import Frozen
from evaluation.choices import MAX_RESTARTS
from evaluation.compute.conditions import Batch, Row
from evaluation.spec import AdversarialCondition, Attacking, EvaluationSpec
from evaluation.statistics import proportion

Grade = Literal["reliable", "unchecked", "suspicious", "at chance", "invalid"]
"""From the best to the worst: no check failed; not all checks are done; something speaks against the number; the model is no better
than a guess, so that the number says nothing; the number is wrong."""

_ORDER: tuple[Grade, ...] = get_args(Grade)

PREFLIGHT_IMAGES = 64
"""Images on which a model is looked at before it is attacked."""

EXTREME_EPS = 0.5
"""At this Linf radius every image can be made grey: what still stands above chance was not attacked well."""


class Check(Frozen):
    """One thing that could be wrong, and whether it is.

    Attributes:
        name: of the check, the same in every evaluation.
        failed: whether it found something.
        means: what a failure makes of the numbers.
        message: what was found, and what to do.
        images: indices of the images that show it.
        about: title of the condition; empty for the model itself.
    """

    name: str
    failed: bool
    means: Grade
    message: str
    images: Annotated[tuple[int, ...], Field(description="indices in the data set")] = ()
    about: str = ""


def grade(checks: Iterable[Check], *, complete: bool) -> Grade:
    """The worst that a failed check means.

    Args:
        checks: of one model.
        complete: whether all that can be checked has been; else what has not failed is unchecked.
    """
    done = [*checks]
    found: set[Grade] = {check.means for check in done if check.failed}
    return max({"reliable" if complete and done else "unchecked", *found}, key=_ORDER.index)


def probes(spec: EvaluationSpec, condition: int, batch: Batch, rows: Mapping[int, Row]) -> tuple[Check, ...]:
    """Check what a condition, given by its place, did to its first images; the extreme radius once per model.

    Args:
        spec: of the evaluation.
        condition: checked where it attacks; with the first of those comes the extreme radius.
        batch: the first images.
        rows: what came of them, by their position.
    """
    asked = spec.conditions[condition]
    if not isinstance(asked, Attacking) or getattr(asked, "targets", None) or not batch.has_gradient:
        return ()
    threat = asked.threat if isinstance(asked, AdversarialCondition) else asked.threats[-1]
    model, images, labels = batch.classifier, batch.images, batch.labels
    standing = torch.tensor([rows[position].counts(asked) for position in range(len(labels))], device=labels.device)
    few = slice(PREFLIGHT_IMAGES)
    return (
        *probe(model, images, labels, batch.indices, threat, standing),
        *([extreme(model, images[few], labels[few], batch.indices[few])] if condition == spec.attacking[0] else []),
    )


def probe(
    model: nn.Module, images: Tensor, labels: Tensor, indices: Sequence[int], threat: ThreatModel, standing: Tensor
) -> tuple[Check, ...]:
    """Try perturbations weaker than any proper attack on the images that an attack left standing.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W), all that were attacked.
        labels: (N,).
        indices: of the images in their data set.
        threat: within which they were attacked.
        standing: (N,) bool: right on the clean image and not flipped.
    """
    if threat.norm not in attacks.create("noise").norms or threat.eps == 0 or not standing.any():
        return ()
    left = [index for index, stands in zip(indices, standing.tolist(), strict=True) if stands]

    def run(name: str) -> AttackRun:
        attack, draws = attacks.create(name), probe_draws(left, images)
        return attacks.run_attack(attack, model, images[standing], labels[standing], threat=threat, draws=draws)

    return tuple(_weaker(name, title, run(name).flipped, left, len(images)) for name, title in _WEAKER.items())


PROBE_STREAM = MAX_RESTARTS + 1
"""Stream of random draws of checks: no restart has it, nor have targets."""

_WEAKER = {"noise": "noise flips no image that stands", "fgsm": "a single step is not stronger"}


def _weaker(name: str, title: str, flipped: Tensor, left: Sequence[int], n: int) -> Check:
    """Noise may flip none; a single step, of another direction, may flip some, but not more than the interval allows."""
    count = int(flipped.sum())
    bar = proportion(n - len(left), n)
    beyond = bar is not None and (n - len(left) + count) / n > bar.high
    failed = beyond or (name == "noise" and count > 0)
    return Check(
        name=title,
        failed=failed,
        means="invalid" if beyond else "suspicious",
        message=f"{attacks.create(name).title} alone flips {count} of the {len(left)} images that the attack left standing: it is "
        "not as strong as it should be; take more steps, restarts, or the preset standard"
        if failed
        else f"{attacks.create(name).title} flips {count} of the {len(left)} images left standing",
        images=listed(flipped, left),
    )


def extreme(model: nn.Module, images: Tensor, labels: Tensor, indices: Sequence[int]) -> Check:
    """Attack with a radius at which nothing can stand above chance; see `EXTREME_EPS`."""
    run = attacks.run_attack(
        attacks.create("pgd", steps=20, step_size=EXTREME_EPS / 4),
        model,
        images,
        labels,
        threat=ThreatModel(Norm.LINF, EXTREME_EPS),
        draws=probe_draws(indices, images),
    )
    standing = (attacks.predictions(run.clean_logits) == labels) & ~run.flipped
    found = proportion(int(standing.sum()), len(images))
    failed = found is not None and found.low > 1 / run.logits.shape[1]
    return Check(
        name="nothing stands at eps 0.5",
        failed=failed,
        means="invalid",
        message=f"{int(standing.sum())} of {len(images)} images withstand PGD-20 at Linf {EXTREME_EPS}, where every image can be "
        "made grey: the gradients mislead, and robust accuracy found with them means nothing"
        if failed
        else f"{int(standing.sum())} of {len(images)} images stand at Linf {EXTREME_EPS}, not above chance",
        images=listed(standing, indices) if failed else (),
    )


def probe_draws(indices: Sequence[int], images: Tensor) -> attacks.Draws:
    """Draws of checks for images, on their device."""
    return attacks.Draws.of(0, indices, device=images.device).stream(PROBE_STREAM)


def listed(chosen: Tensor, indices: Sequence[int]) -> tuple[int, ...]:
    """List the indices of the images that a mask (N,) chooses."""
    return tuple(index for index, on in zip(indices, chosen.tolist(), strict=False) if on)
