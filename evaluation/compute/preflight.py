"""Looks at a model before anything attacks it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

import attacks
from common.generators import seeded
from evaluation.compute.checks import PROBE_STREAM, Check, listed, probe_draws
from evaluation.compute.randomised import Treatment
from evaluation.statistics import proportion

ZERO_GRADIENT_SHARE = 0.05
"""Share of images without any gradient above which a gradient attack says little."""

LEAST_CHANGE = 2.4e-7
"""Smallest change of a value in [0, 1] that float32 surely keeps: four times the spacing of numbers below 1."""

FINITE_STEP = 0.25 / 255
"""Linf length of the step with which a gradient is compared with what the loss does."""


class PreflightError(ValueError):
    """A model cannot be evaluated as it is; the message says how to fix it."""


def preflight(model: nn.Module, images: Tensor, labels: Tensor, indices: Sequence[int]) -> tuple[Check, ...]:
    """Look at a model before anything attacks it: five forward passes and one gradient.

    Args:
        model: takes images in [0, 1], is to return logits (N, K).
        images: (N, C, H, W), a few of the data set.
        labels: (N,) int64, the right logits.
        indices: of the images in their data set.

    Raises:
        PreflightError: the model is in training mode, its output is not (N, K) with a logit for every label, or the images are
            not in [0, 1].
    """
    _require_ready(model, images)
    with torch.no_grad():
        logits, again = model(images), model(images)
        alone = torch.cat([model(image.unsqueeze(0)) for image in images[:4]])
    _require_logits(logits, images, labels)
    return (
        _outputs_are_logits(logits),
        _is_deterministic(logits, again, indices),
        _images_are_independent(logits[:4], alone, indices),
        _normalises_inside(model, images, labels, logits),
        *(
            (*_gradients_tell(model, images, labels, indices), _changes_arrive(model, images, logits, indices))
            if has_gradient(model, images)
            else [_NO_GRADIENT]
        ),
    )


def preflight_randomised(
    model: nn.Module, images: Tensor, labels: Tensor, indices: Sequence[int], treatment: Treatment
) -> tuple[Check, ...]:
    """Look at a randomised model as attacks see it, but with the same random numbers at every call.

    Args:
        model: as for `preflight`, with the others; draws random numbers from the global generators.
        images: (N, C, H, W).
        labels: (N,) int64.
        indices: of the images.
        treatment: how it is evaluated.

    Raises:
        PreflightError: as `preflight` does.
    """
    draws = attacks.Draws.of(0, [0], device=images.device).stream(PROBE_STREAM)
    model = attacks.Averaged(model, draws, treatment.averaging.eot_passes, afresh=False)
    _require_ready(model, images)
    with torch.no_grad():
        logits = model(images)
    _require_logits(logits, images, labels)
    return (
        _outputs_are_logits(logits),
        _is_averaged(treatment),
        _normalises_inside(model, images, labels, logits),
        *(
            (*_gradients_tell(model, images, labels, indices), _changes_arrive(model, images, logits, indices))
            if has_gradient(model, images)
            else [_NO_GRADIENT]
        ),
    )


def _require_ready(model: nn.Module, images: Tensor) -> None:
    if any(module.training for module in model.modules()):
        raise PreflightError("the model is in training mode, in which batch norm mixes images: call model.eval()")
    if not (images.min() >= 0 and images.max() <= 1):
        low, high = images.aminmax()
        raise PreflightError(
            f"images must lie in [0, 1], got {low.item():g} to {high.item():g}: leave normalising to the model"
        )


def _require_logits(logits: Tensor, images: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] <= labels.max():
        raise PreflightError(
            f"expected logits (N, K) with K above {int(labels.max())}, got {tuple(logits.shape)} for {len(images)} images"
        )


def has_gradient(model: nn.Module, images: Tensor) -> bool:
    """Whether the logits of a model depend on the images (N, C, H, W) in a way that autograd can follow; the first one is tried."""
    with torch.enable_grad():
        leaf = images[:1].detach().requires_grad_()
        logits = model(leaf)
        if not logits.requires_grad:
            return False
        (found,) = cast(tuple[Tensor | None], torch.autograd.grad(logits.sum(), leaf, allow_unused=True))
    return found is not None


_NO_GRADIENT = Check(
    name="the model has a gradient",
    failed=True,
    means="suspicious",
    message="this model has no gradient: only Square and transforms can be run; is there a vote, a cached answer or a JPEG inside?",
)


def _changes_arrive(model: nn.Module, images: Tensor, logits: Tensor, indices: Sequence[int]) -> Check:
    """A network that rounds its images has the same logits, to the bit, for images that differ by less than its rounding step."""
    length = max(LEAST_CHANGE, LEAST_CHANGE * 100_000 / images[0].numel())
    noise = probe_draws(indices, images).uniform(images) * 2 - 1
    with torch.no_grad():
        same = (model((images + length * noise).clamp(0, 1)) == logits).all(1)
    failed = bool(same.sum() > 0.5 * len(images))
    return Check(
        name="small changes reach the logits",
        failed=failed,
        means="suspicious",
        message=f"{int(same.sum())} of {len(images)} images have the same logits to the bit after a change of {length:.1g}: the "
        "images are rounded inside, so that gradients are not the model's own; only Square and transforms count"
        if failed
        else "logits change with the smallest changes of an image",
        images=listed(same, indices) if failed else (),
    )


def _outputs_are_logits(logits: Tensor) -> Check:
    sums = logits.sum(1)
    failed = bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
    return Check(
        name="outputs are logits",
        failed=failed,
        means="suspicious",
        message="the outputs are probabilities: a softmax before the loss hides gradients; let the model return what it takes"
        if failed
        else "the outputs are not probabilities",
    )


def passes_differ(model: nn.Module, images: Tensor) -> bool:
    """Whether images (N, C, H, W) have other logits with other random numbers; the global generators are left as they were."""
    passes: list[Tensor] = []
    with torch.no_grad():
        for seed in range(PROBED_SEEDS):
            with seeded(seed):
                passes.append(model(images))
    return any(bool(_differ(passes[0], each).any()) for each in passes[1:])


PROBED_SEEDS = 3
"""Passes that are compared to find out whether a model is randomised."""


def _differ(logits: Tensor, again: Tensor) -> Tensor:
    """Which images (N,) have other logits the second time."""
    return (logits - again).abs().amax(1) > 1e-4 * logits.abs().amax().clamp(min=1e-6)


def _is_deterministic(logits: Tensor, again: Tensor, indices: Sequence[int]) -> Check:
    differ = _differ(logits, again)
    return Check(
        name="two passes agree",
        failed=bool(differ.any()),
        means="suspicious",
        message="the same image gives different logits: against a randomised model, attacks need the mean over many passes "
        "(EOT, Athalye et al. 2018, arXiv:1802.00420), which is not done here: let the model's card or the evaluation say that it "
        "is randomised"
        if differ.any()
        else "two passes give the same logits",
        images=listed(differ, indices),
    )


def _is_averaged(treatment: Treatment) -> Check:
    (seen, judged), because = treatment
    failed = seen == 1
    treated = f"treated as randomised, because {because}: each image is judged by {judged} passes of its own"
    return Check(
        name="attacks on a randomised model average",
        failed=failed,
        means="suspicious",
        message=f"{treated}, but attacks see a single pass, which misleads them: set eot_passes to 20"
        if failed
        else f"{treated}, and attacks see the mean of {seen} passes (EOT, Athalye et al. 2018, arXiv:1802.00420)",
    )


def _images_are_independent(logits: Tensor, alone: Tensor, indices: Sequence[int]) -> Check:
    differ = (logits - alone).abs().amax(1) > 1e-2 * logits.abs().amax().clamp(min=1e-6)
    return Check(
        name="an image alone gives the same",
        failed=bool(differ.any()),
        means="suspicious",
        message="logits depend on which images share the batch: is a norm using the statistics of the batch?"
        if differ.any()
        else "an image gives the same logits alone and in a batch",
        images=listed(differ, indices[: len(alone)]),
    )


def _normalises_inside(model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor) -> Check:
    """A model trained on normalised images that receives others is right more often once they are normalised."""
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True).clamp(min=1e-3)
    with torch.no_grad():
        normalised = model((images - mean) / std)
    before, after = ((attacks.predictions(each) == labels).sum().item() for each in (logits, normalised))
    low, high = proportion(int(after), len(labels)), proportion(int(before), len(labels))
    failed = low is not None and high is not None and low.low > high.high
    return Check(
        name="normalisation is inside",
        failed=failed,
        means="invalid",
        message=f"right on {before} of {len(labels)} images as they are, on {after} once normalised: put the normalisation of "
        "training into the card's preprocessing.mean and preprocessing.std"
        if failed
        else f"normalising once more does not help ({before} right before, {after} after, of {len(labels)})",
    )


def _gradients_tell(model: nn.Module, images: Tensor, labels: Tensor, indices: Sequence[int]) -> tuple[Check, ...]:
    """Compare the loss after a short step along the gradient's sign with what the gradient promises."""
    loss, gradient = loss_and_gradient(model, images, labels)
    zero = (gradient.abs() < torch.finfo(gradient.dtype).tiny).flatten(1).all(1)
    share = zero.float().mean().item()
    ahead = (images + FINITE_STEP * gradient.sign()).clamp(0, 1)
    promised = ((ahead - images) * gradient).flatten(1).sum(1)
    with torch.no_grad():
        risen = attacks.log_odds_against(model(ahead), labels) - loss
    noise = 1e-5 * loss.abs().clamp(min=1)
    telling = promised > 10 * noise
    broken = telling & ((risen < 0.1 * promised) | (risen > 10 * promised))
    shattered = bool(telling.any() and broken.sum() > 0.5 * telling.sum())
    return (
        Check(
            name="gradients are not zero",
            failed=share > ZERO_GRADIENT_SHARE,
            means="suspicious",
            message=f"{100 * share:.0f} % of {len(images)} images have an input gradient of zero, or too small for float32: "
            "gradient attacks do not move them; is there a step function inside?"
            if share > ZERO_GRADIENT_SHARE
            else f"{int(zero.sum())} of {len(images)} images have a gradient of zero",
            images=listed(zero, indices),
        ),
        Check(
            name="the loss follows its gradient",
            failed=shattered,
            means="suspicious",
            message=f"on {int(broken.sum())} of {int(telling.sum())} images a small step along the gradient does not change the "
            "loss as the gradient says: a layer hides it (quantising, say), and only attacks without one, such as Square, count"
            if shattered
            else "a small step along the gradient changes the loss as the gradient says",
            images=listed(broken, indices) if shattered else (),
        ),
    )


def loss_and_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds against the label of each image (N,), as PGD looks at them, and their gradient with respect to the images."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        losses = attacks.log_odds_against(model(leaf), labels)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient
