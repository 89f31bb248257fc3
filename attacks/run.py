"""The harness: runs an attack and measures what it did. An attack never grades itself."""

from dataclasses import dataclass, replace
from threading import get_ident

import torch
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.gradient import classify
from attacks.norms import distance
from attacks.targets import predictions
from attacks.task import Attack, Task, ThreatModel
from common.float32 import Float32, float32_as

TOLERANCE = 1e-6
"""How far beyond eps or [0, 1] an image may lie, for rounding in float32."""


class AttackError(ValueError):
    """An attack cannot be run as asked, or did not return images."""


@dataclass(frozen=True)
class AttackRun:
    """What an attack did to N images.

    Attributes:
        adversarial: (N, C, H, W), as the attack returned them; nothing is repaired.
        clean_logits: (N, K) before.
        logits: (N, K) after.
        distances: (N,) in the threat's norm; NaN where an image holds NaN.
        within_budget: (N,) bool: the distance is at most eps and all values lie in [0, 1].
        flipped: (N,) bool: right before, wrong after, within budget; with a logit that is not finite an image is wrong.
        reached: (N,) bool: predicted as the target, within budget; None without targets.
        steps: (N,) int64: after how many steps the attack says it found each image; None where it does not say.
        images_forwarded: images that passed through the model, the harness's own passes included.
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
    """Counts images that pass through a model in this thread; another may use the model at the same time."""

    def __init__(self) -> None:
        self.images = 0
        self._thread = get_ident()

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if get_ident() == self._thread:
            self.images += len(inputs[0])


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
    """Attack images and measure distance, success and the forward passes it took.

    Args:
        attack: what proposes the images.
        model: takes images in [0, 1], returns logits (N, K); must be in evaluation mode.
        images: (N, C, H, W) in [0, 1]; the attack works on a copy.
        labels: (N,) int64.
        threat: the budget that counts.
        draws: of N images.
        targets: (N,) int64 classes to aim for, or None.
        searched: what the attack sees instead of the model, such as a copy in bfloat16; the verdict is always the model's, and
            images that fool the copy alone are attacked again as the model sees them.
        searched_as: what float32 means where the attack looks; for the verdict it is always IEEE 754's.
        clean_logits: (N, K) of the images as they are, if they are known; they are not looked at again then.

    Raises:
        AttackError: the model is in training mode, the attack does not support the norm or has no targeted form, the images are
            not in [0, 1], or what the attack returned has another shape.
    """
    searched = searched or model
    for each in (model, searched):
        _require_evaluation_mode(each)
    _require_runnable(attack, images, threat, targets)
    _require_one_per_image(len(images), labels=labels, targets=targets, draws=draws)
    count = _ForwardCount()
    hooks = [each.register_forward_pre_hook(count) for each in {model, searched}]
    try:
        clean = classify(model, images) if clean_logits is None else clean_logits
        task = Task(searched, images.clone(), labels, threat, draws, targets)
        with float32_as(searched_as):
            proposal = attack.perturb(task)
        adversarial, steps = proposal.images.detach(), proposal.steps
        _require_alike(attack, adversarial, images)
        logits, fooled_copy = classify(model, adversarial), None
        if searched is not model or searched_as != "ieee":
            with float32_as(searched_as):
                seen = classify(searched, adversarial)
            fooled_copy = _fooled_copy(logits, seen, labels, targets)
        if fooled_copy is not None and fooled_copy.any():
            again = attack.perturb(replace(task, model=model, images=images).of_images(fooled_copy))
            adversarial[fooled_copy] = again.images.detach()
            if steps is not None and again.steps is not None:
                steps[fooled_copy] = again.steps
            logits[fooled_copy] = classify(model, adversarial[fooled_copy])
    finally:
        for hook in hooks:
            hook.remove()
    distances = distance(adversarial - images, threat.norm)
    in_range = ((adversarial >= -TOLERANCE) & (adversarial <= 1 + TOLERANCE)).flatten(1).all(1)
    within = in_range & (distances <= threat.eps + TOLERANCE)  # a NaN fails both
    before, after = predictions(clean), predictions(logits)
    return AttackRun(
        adversarial=adversarial,
        clean_logits=clean,
        logits=logits,
        distances=distances,
        within_budget=within,
        flipped=(before == labels) & (after != labels) & within,
        reached=None if targets is None else (after == targets) & within,
        steps=steps,
        images_forwarded=count.images,
    )


def _fooled_copy(logits: Tensor, searched: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Which images fool what was searched, but not the model, (N,) bool."""
    if targets is None:
        return (predictions(searched) != labels) & (predictions(logits) == labels)
    return (predictions(searched) == targets) & (predictions(logits) != targets)


def _require_evaluation_mode(model: nn.Module) -> None:
    if any(module.training for module in model.modules()):
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
        raise AttackError(f"draws must be of {count} images, got those of {len(draws)}")


def _require_alike(attack: Attack, adversarial: Tensor, images: Tensor) -> None:
    if adversarial.shape != images.shape or adversarial.dtype != images.dtype:
        raise AttackError(
            f"{attack.title} returned {adversarial.dtype} {tuple(adversarial.shape)} "
            f"for images {images.dtype} {tuple(images.shape)}"
        )
