"""The harness: runs an attack and measures its result. An attack never judges itself."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import get_ident

import torch
from torch import Tensor, nn

from attacks.averaged import Averaged
from attacks.draws import Draws
from attacks.gradient import classify
from attacks.norms import distance
from attacks.targets import predictions
from attacks.task import Attack, Proposal, Task, ThreatModel
from common.float32 import Float32, float32_as

TOLERANCE = 1e-6
"""How far beyond eps or [0, 1] an image may lie, because float32 rounds."""


class AttackError(ValueError):
    """An attack cannot be run as asked, or did not return images."""


@dataclass(frozen=True)
class AttackRun:
    """The measured result of an attack on N images.

    Attributes:
        adversarial: (N, C, H, W), as the attack returned them; nothing is repaired.
        clean_logits: (N, K) before the attack.
        logits: (N, K) after the attack.
        distances: (N,) in the threat's norm; NaN if the image contains NaN.
        within_budget: (N,) bool: the distance is at most eps and all values lie in [0, 1].
        flipped: (N,) bool: right before, wrong after, within budget; an image with a logit that is not finite is wrong.
        reached: (N,) bool: predicted as the target, within budget; None without targets.
        steps: (N,) int64: number of steps after which the attack reports having found each image; None if it reports none.
        images_forwarded: number of images that passed through the model, including the harness's own passes.
    """

    adversarial: Tensor
    clean_logits: Tensor
    logits: Tensor
    distances: Tensor
    within_budget: Tensor
    flipped: Tensor
    reached: Tensor | None
    steps: Tensor | None
    images_forwarded: int


class _ForwardCount:
    """Counts images that pass through a model in this thread; other threads may use the model at the same time."""

    def __init__(self) -> None:
        self.images = 0
        self._thread = get_ident()

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if get_ident() == self._thread:
            self.images += len(inputs[0])


@dataclass(frozen=True)
class Candidate:
    """What an attack proposes for one image.

    Attributes:
        image: (1, C, H, W), as the attack returned it.
        distance: in the threat's norm; NaN if the image contains NaN.
        within_budget: the distance is at most eps and all values lie in [0, 1].
        steps: number of steps that the attack reports; None if it reports none.
        images_forwarded: number of passes through the model.
    """

    image: Tensor
    distance: float
    within_budget: bool
    steps: int | None
    images_forwarded: int


@contextmanager
def _counting_forwards(*models: nn.Module) -> Generator[_ForwardCount]:
    count = _ForwardCount()
    hooks = [model.register_forward_pre_hook(count) for model in set(models)]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


@float32_as("ieee")
def run_attack(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    draws: Draws,
    targets: Tensor | None = None,
    searched: nn.Module | None = None,
    searched_as: Float32 = "ieee",
    clean_logits: Tensor | None = None,
) -> AttackRun:
    """Attack images and measure distances, success and forward passes.

    Args:
        attack: proposes the images.
        model: takes images in [0, 1], returns logits (N, K); must be in evaluation mode.
        images: (N, C, H, W) in [0, 1]; the attack receives a copy.
        labels: (N,) int64.
        threat: the budget.
        draws: random numbers of the N images.
        targets: (N,) int64 classes to aim for, or None.
        searched: a copy of the model that the attack uses instead, for example in bfloat16. The model itself always judges, and
            images that fool only the copy are attacked again on the model.
        searched_as: what float32 means during the attack; for the judgement it is always IEEE 754's.
        clean_logits: (N, K) of the unchanged images, if known; then they are not computed again.

    Raises:
        AttackError: the model is in training mode; the attack does not support the norm or has no targeted form; images, labels,
            targets or draws have a wrong shape, type or range; or the attack returned images of another shape or type.
    """
    searched = searched or model
    _require_evaluation_mode(model, searched)
    _require_runnable(attack, images, threat, targets)
    _require_one_per_image(len(images), labels=labels, targets=targets, draws=draws)
    task = Task(model, images, labels, threat, draws, targets)
    with _counting_forwards(model, searched) as count:
        clean = classify(model, images) if clean_logits is None else clean_logits
        found, logits = _search(attack, task, searched, searched_as)
    distances, within = _measure(found.images, images, threat)
    before, after = predictions(clean), predictions(logits)
    return AttackRun(
        adversarial=found.images,
        clean_logits=clean,
        logits=logits,
        distances=distances,
        within_budget=within,
        flipped=(before == labels) & (after != labels) & within,
        reached=None if targets is None else (after == targets) & within,
        steps=found.steps,
        images_forwarded=count.images,
    )


MODEL_STREAM = 2**30
"""Stream of the random draws of a randomised model, which no attack uses."""


@float32_as("ieee")
def search_averaged(attack: Attack, task: Task, *, passes: int, searched_as: Float32 = "ieee") -> Candidate:
    """Attack one image of a randomised model by means over passes, see `Averaged`; nothing is judged.

    Judge the image by `attacks.passes` of other draws: the attack has adapted it to the passes that it saw.

    Args:
        attack: proposes the image; none leaves it early.
        task: of one image; its model draws random numbers from the global generators.
        passes: of which each mean is taken.
        searched_as: what float32 means during the attack.

    Raises:
        AttackError: as `run_attack` does.
    """
    model, images = task.model, task.images
    _require_evaluation_mode(model)
    _require_runnable(attack, images, task.threat, task.targets)
    _require_one_per_image(1, labels=task.labels, targets=task.targets, draws=task.draws)
    averaged = Averaged(model, task.draws.stream(MODEL_STREAM), passes)
    with _counting_forwards(model) as count, float32_as(searched_as):
        found = attack.perturb(replace(task, model=averaged, images=images.clone()))
    image = found.images.detach()
    _require_alike(attack, image, images)
    distances, within = _measure(image, images, task.threat)
    steps = None if found.steps is None else int(found.steps)
    return Candidate(image, distances.item(), bool(within), steps, count.images)


def _search(attack: Attack, task: Task, searched: nn.Module, searched_as: Float32) -> tuple[Proposal, Tensor]:
    """Attack a copy of the model, then the model itself where an image fools the copy alone.

    Returns:
        What was proposed, and the model's logits (N, K) on it.
    """
    model = task.model
    with float32_as(searched_as):
        proposal = attack.perturb(replace(task, model=searched, images=task.images.clone()))
    adversarial, steps = proposal.images.detach(), proposal.steps
    _require_alike(attack, adversarial, task.images)
    logits = classify(model, adversarial)
    if searched is not model or searched_as != "ieee":
        with float32_as(searched_as):
            seen = classify(searched, adversarial)
        fooled = _fools_only_the_copy(logits, seen, task)
        if fooled.any():
            again = attack.perturb(task.of_images(fooled))
            adversarial[fooled] = again.images.detach()
            if steps is not None and again.steps is not None:
                steps[fooled] = again.steps
            logits[fooled] = classify(model, adversarial[fooled])
    return Proposal(adversarial, steps), logits


def _fools_only_the_copy(logits: Tensor, seen: Tensor, task: Task) -> Tensor:
    """Which images fool the copy but not the model, (N,) bool."""
    if task.targets is None:
        return (predictions(seen) != task.labels) & (predictions(logits) == task.labels)
    return (predictions(seen) == task.targets) & (predictions(logits) != task.targets)


def _measure(adversarial: Tensor, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Distance of each image (N,), and whether it lies within the budget (N,) bool; a NaN never does."""
    distances = distance(adversarial - images, threat.norm)
    in_range = ((adversarial >= -TOLERANCE) & (adversarial <= 1 + TOLERANCE)).flatten(1).all(1)
    return distances, in_range & (distances <= threat.eps + TOLERANCE)


def _require_evaluation_mode(*models: nn.Module) -> None:
    if any(module.training for model in models for module in model.modules()):
        raise AttackError("the model is in training mode: call model.eval() before attacking it")


def _require_runnable(attack: Attack, images: Tensor, threat: ThreatModel, targets: Tensor | None) -> None:
    if threat.norm not in attack.norms:
        known = ", ".join(sorted(attack.norms))
        raise AttackError(f"{attack.title} does not support {threat.norm} (supported: {known})")
    if targets is not None and not attack.targetable:
        raise AttackError(f"{attack.title} has no targeted form")
    if images.ndim != 4 or len(images) == 0:
        raise AttackError(f"images must be (N, C, H, W) with N at least 1, got {tuple(images.shape)}")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise AttackError(f"images must lie in [0, 1], got values from {low.item():g} to {high.item():g}")


def _require_one_per_image(count: int, *, labels: Tensor, targets: Tensor | None, draws: Draws) -> None:
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and (classes.shape != (count,) or classes.dtype != torch.int64):
            raise AttackError(f"{name} must be int64 ({count},), got {classes.dtype} {tuple(classes.shape)}")
    if len(draws) != count:
        raise AttackError(f"draws must belong to {count} images, got draws of {len(draws)}")


def _require_alike(attack: Attack, adversarial: Tensor, images: Tensor) -> None:
    if adversarial.shape != images.shape or adversarial.dtype != images.dtype:
        raise AttackError(
            f"{attack.title} returned {adversarial.dtype} {tuple(adversarial.shape)} "
            f"for images {images.dtype} {tuple(images.shape)}"
        )
