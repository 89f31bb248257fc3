"""Which class a model chooses, how far it is from choosing another, and which one a targeted attack aims for."""

from typing import Literal

import torch
from torch import Tensor

from attacks.draws import Draws

TargetRule = Literal["random", "least_likely"]
"""`random`: any class but the label, all equally likely. `least_likely`: the class with the smallest logit on the clean image."""


def choose_targets(rule: TargetRule, logits: Tensor, labels: Tensor, draws: Draws) -> Tensor:
    """Choose one target an image.

    Args:
        rule: see `TargetRule`.
        logits: (N, K) on the clean images, K at least 2.
        labels: (N,) int64.
        draws: used by the rule `random` only.

    Returns:
        (N,) int64; differs from the label everywhere.

    Raises:
        ValueError: there is only one class.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError("a targeted attack needs at least two classes, the model has 1")
    if rule == "random":
        return (labels + 1 + draws.integers(classes - 1).to(labels)) % classes
    others = logits.scatter(1, labels.unsqueeze(1), float("inf"))
    return others.argmin(1)


def predictions(logits: Tensor) -> Tensor:
    """The class of the largest logit, (N,) int64; -1, which is no class, where a logit of (N, K) is not finite."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)


def log_odds_against(logits: Tensor, classes: Tensor) -> Tensor:
    """The logarithm of (1 - p) / p for the softmax p of a class, (N,), in float32 at least.

    It grows where the cross-entropy -log(p) does, and its gradient points the same way. But the gradient of the cross-entropy is
    that times 1 - p, which vanishes in float32 where a model is certain; this one does not at any scale of the logits.

    Args:
        logits: (N, K).
        classes: (N,) int64.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    at = classes.unsqueeze(1)
    others = precise.scatter(1, at, -torch.inf) if logits.shape[1] > 1 else torch.zeros_like(precise)
    return others.logsumexp(1) - precise.gather(1, at).squeeze(1)
