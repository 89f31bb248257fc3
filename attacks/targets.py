"""The class a model predicts, how far it is from predicting another, and the class a targeted attack aims for."""

from typing import Literal

import torch
from torch import Tensor

from attacks.draws import Draws

TargetRule = Literal["random", "least_likely"]
"""`random`: any class except the label, all equally likely. `least_likely`: the class with the smallest clean logit."""


def choose_targets(rule: TargetRule, logits: Tensor, labels: Tensor, draws: Draws) -> Tensor:
    """Choose one target per image.

    Args:
        rule: see `TargetRule`.
        logits: (N, K) on the clean images, K at least 2.
        labels: (N,) int64.
        draws: used only by the rule `random`.

    Returns:
        (N,) int64, different from the labels.

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
    """Find the class of the largest logit, (N,) int64; -1, which is not a class, if one of an image's K logits is not finite."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)


def log_odds_against(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute log((1 - p) / p) for the softmax p of a class, (N,), in float32 or wider.

    It grows with the cross-entropy -log(p), and its gradient has the same direction. The gradient of the cross-entropy has the
    additional factor 1 - p, which vanishes in float32 where the model is certain; this gradient never does.

    Args:
        logits: (N, K).
        classes: (N,) int64.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    at = classes.unsqueeze(1)
    others = precise.scatter(1, at, -torch.inf) if logits.shape[1] > 1 else torch.zeros_like(precise)
    return others.logsumexp(1) - precise.gather(1, at).squeeze(1)
