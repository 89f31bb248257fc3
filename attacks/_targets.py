"""Which class a targeted attack aims for."""

from typing import Literal

from torch import Tensor

from attacks._random import Generator, integers

TargetRule = Literal["random", "least_likely"]
"""`random`: any class but the label, all equally likely. `least_likely`: the class with the smallest logit on the clean image."""


def choose_targets(rule: TargetRule, logits: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Choose one target an image.

    Args:
        rule: see `TargetRule`.
        logits: (N, K) on the clean images, K at least 2.
        labels: (N,) int64.
        generator: used by the rule `random` only.

    Returns:
        (N,) int64; differs from the label everywhere.

    Raises:
        ValueError: there is only one class.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError("a targeted attack needs at least two classes, the model has 1")
    if rule == "random":
        return (labels + 1 + integers(classes - 1, len(labels), generator).to(labels)) % classes
    others = logits.scatter(1, labels.unsqueeze(1), float("inf"))
    return others.argmin(1)
