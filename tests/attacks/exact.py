"""Models whose robustness is known exactly."""

from torch import Tensor, nn

from tests.attacks.digits import Digits

EXACT = {0.0: 1626, 0.01: 1599, 0.02: 1568, 0.1: 1185, 0.2: 262, 0.5: 0}


def exactly_robust(model: nn.Module, digits: Digits, eps: float) -> Tensor:
    """Robust in the Linf ball and the box, by the closed form for a linear model: (N,) bool."""
    weight = model.get_parameter("1.weight")
    y, x = digits.labels, digits.images.flatten(1)
    holds = model(digits.images).argmax(1) == y
    for k in range(10):
        worst = (x + eps * (weight[k] - weight[y]).sign()).clamp(0, 1)
        logits = model(worst.view_as(digits.images))
        margin = logits.gather(1, y.unsqueeze(1)).squeeze(1) - logits[:, k]
        holds &= (margin > 0) | (y == k)
    return holds
