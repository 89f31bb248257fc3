"""Randomised models: passes of one image that differ, and means over them."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.gradient import Loss, OwnPasses, repeated
from attacks.targets import predictions
from common.generators import seeded

PASS_PIXELS = 2**20
"""Height times width times number of passes that run at once."""

SEEDS = 2**31
"""Number of seeds of the global generators."""

SEEDS_AT_ONCE = 64
"""Seeds that are drawn at once: one at a time would take as long as a small model."""


def passes(model: nn.Module, image: Tensor, draws: Draws, count: int) -> Tensor:
    """Classify one image several times, without gradients.

    Args:
        model: draws its random numbers from the global generators.
        image: (1, C, H, W).
        draws: of this image; equal ones give equal logits.
        count: number of passes.

    Returns:
        Logits (count, K).
    """
    with torch.no_grad(), seeded(int(draws.integers(SEEDS))):
        return torch.cat([model(part) for part in _copies(image, count)])


def mean_prediction(logits: Tensor) -> Tensor:
    """Summarise the passes (M, K) of an image: the logarithm of their mean softmax, (1, K)."""
    return logits.softmax(1).mean(0, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny).log()


def agreeing(logits: Tensor, label: Tensor) -> int:
    """Count the passes (M, K) that predict a class ()."""
    return int((predictions(logits) == label).sum())


class Averaged(OwnPasses):
    """A randomised model as an attack on one image sees it: logits, losses and gradients are means over several passes.

    This is expectation over transformation (Athalye, Carlini, Wagner 2018, arXiv:1802.00420, Sec. 4.2). Every call seeds the
    global generators by the image's draws and the number of the call, so that a result depends on nothing else, and draws afresh.
    All images (N, C, H, W) of one call meet the same random numbers: differences between them are not noise.

    Args:
        model: in evaluation mode; draws its random numbers from the global generators.
        draws: of the one image that is attacked.
        count: passes of which the mean is taken.
        afresh: whether each call draws other numbers; without it, all calls are of one deterministic function.
    """

    def __init__(self, model: nn.Module, draws: Draws, count: int, *, afresh: bool = True) -> None:
        super().__init__()
        self.model, self._count = model, count
        self._seeds = _seeds(draws) if afresh else itertools.repeat(next(_seeds(draws)))
        self.training = model.training

    def forward(self, images: Tensor, loss: Loss = None) -> Tensor | tuple[Tensor, ...]:
        """Mean logits (N, K) of images (N, C, H, W); with a loss, mean logits, mean losses (N,) and the latter's gradient."""
        seed = next(self._seeds)
        if loss is None:
            return torch.cat([self._logits(image, seed).mean(0, keepdim=True) for image in images.split(1)])
        found = [self._look(image, loss, row, seed) for row, image in enumerate(images.split(1))]
        return tuple(torch.cat(each) for each in zip(*found, strict=True))

    def losses(self, images: Tensor, loss: Loss) -> Tensor:
        """Mean losses (N,) of images (N, C, H, W), without gradients."""
        seed = next(self._seeds)
        with torch.no_grad():
            each = [
                repeated(loss, row, self._count)(self._logits(image, seed)).mean(0, keepdim=True)
                for row, image in enumerate(images.split(1))
            ]
        return torch.cat(each)

    def _logits(self, image: Tensor, seed: int) -> Tensor:
        """Logits of each pass, (count, K)."""
        with seeded(seed):
            return torch.cat([self.model(part) for part in _copies(image, self._count)])

    def _look(self, image: Tensor, loss: Loss, row: int, seed: int) -> tuple[Tensor, ...]:
        """Sum over parts, so that memory holds the graph of one part alone."""
        leaf, gradient = image.detach().requires_grad_(), torch.zeros_like(image)
        logits: list[Tensor] = []
        losses: list[Tensor] = []
        with seeded(seed), torch.enable_grad():
            for part in _copies(leaf, self._count):
                logits.append(self.model(part))
                losses.append(repeated(loss, row, len(part))(logits[-1]))
                gradient += torch.autograd.grad(losses[-1].sum(), leaf)[0]
        means = (torch.cat([each.detach() for each in parts]).mean(0, keepdim=True) for parts in (logits, losses))
        return *means, gradient / self._count


def _seeds(draws: Draws) -> Iterator[int]:
    """Seeds of the global generators that belong to the draws of one image, computed many at a time."""
    for block in itertools.count():
        yield from draws.stream(block).integers(SEEDS, SEEDS_AT_ONCE).flatten().tolist()


def _copies(image: Tensor, count: int) -> list[Tensor]:
    """Copies of an image in parts (n, C, H, W), whose sizes depend on nothing but the count and the image's size."""
    at_once = max(1, PASS_PIXELS // image[0, 0].numel())
    return [image.expand(min(at_once, count - start), *image.shape[1:]) for start in range(0, count, at_once)]


def mean_losses(model: nn.Module, images: Tensor, loss: Loss) -> Tensor:
    """Losses (N,) of images, without gradients; see `Averaged` for a randomised model."""
    if isinstance(model, Averaged):
        return model.losses(images, loss)
    with torch.no_grad():
        return loss(model(images))
