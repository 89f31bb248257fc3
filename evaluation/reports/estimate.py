"""What an evaluation would cost, before it is run."""

import time
from collections.abc import Collection

import torch

from common.validation import Frozen
from evaluation.catalog import Catalog, Roles
from evaluation.compute.runner import batch_size
from evaluation.plan import SHARD_IMAGES, Plan
from evaluation.results.tally import Tally
from evaluation.results.totals import Totals


class Estimate(Frozen):
    """The cost of an evaluation at most: images that are flipped leave attacks early.

    Attributes:
        evaluation: the id it would have.
        images: rows to compute, one for each image, model and condition.
        images_done: of these, computed already, or not needed to be as certain as was asked.
        passes: of an image through a model, one with its gradient counted as three, for what is left.
        seconds: of computing on one device for what is left, from the speed of each model measured just now.
    """

    evaluation: str
    images: int
    images_done: int
    passes: int
    seconds: float


def estimate(plan: Plan, catalog: Catalog, device: str, done: Collection[Tally] = ()) -> Estimate:
    """Estimate what a plan costs from one batch, timed through every model.

    Args:
        plan: of the evaluation.
        catalog: where its models are.
        device: where it would run.
        done: tallies of shards that are computed.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
    """
    there, conditions = frozenset(each.shard for each in done), plan.spec.conditions
    totals = Totals(plan, done)
    left = [shard for shard in plan.shards if shard not in there and not totals.of(shard).is_complete]
    passes: dict[str, int] = {}
    seconds = 0.0
    for model in dict.fromkeys(shard.model for shard in left):
        roles = catalog.load_folded(model, device, plan.spec.precision, plan.columns(model))
        randomised = plan.spec.treats_as_randomised(roles.randomised)
        mine = ((shard.images, conditions[shard.condition]) for shard in left if shard.model == model)
        passes[model] = sum(count * plan.spec.passes(condition, randomised=randomised) for count, condition in mine)
        together = plan.spec.eot_passes if randomised else min(SHARD_IMAGES, plan.images)
        seconds += passes[model] * _pass_seconds(roles, together, device)
    images = sum(shard.images for shard in plan.shards)
    return Estimate(
        evaluation=plan.id,
        images=images,
        images_done=images - sum(shard.images for shard in left),
        passes=sum(passes.values()),
        seconds=seconds,
    )


def _pass_seconds(roles: Roles, together: int, device: str) -> float:
    """Time a third of a forward pass with the gradient to the image, for one of a batch; without a gradient, a forward pass."""
    side = roles.classifier.card.preprocessing.crop
    images = torch.rand(min(together, batch_size(side)), 3, side, side, device=device, requires_grad=True)
    started = 0.0
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        logits = roles.searched(images)
        answer = torch.autograd.grad(logits.sum(), images)[0] if roles.has_gradient else logits
        answer.sum().item()  # waits for the device
    return (time.perf_counter() - started) / ((3 if roles.has_gradient else 1) * len(images))
