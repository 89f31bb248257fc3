"""Random draws that belong to an image, not to a batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Generator = torch.Generator | Sequence[torch.Generator]
"""One CPU generator for the whole batch, or one for each image: then results do not depend on how images are batched."""


def image_generators(seed: int, indices: Sequence[int], *, stream: int = 0) -> list[torch.Generator]:
    """Make one generator an image.

    Args:
        seed: of the evaluation, at least 0.
        indices: of the images in their data set.
        stream: keeps draws for different purposes independent.
    """
    return [torch.Generator().manual_seed(_mix(seed, index, stream)) for index in indices]


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def uniform(images: Tensor, generator: Generator) -> Tensor:
    """Draw from [0, 1) a tensor like `images` (N, ...), in float32 on the CPU, then moved to where the images are."""
    return _draw(torch.rand, images, generator)


def normal(images: Tensor, generator: Generator) -> Tensor:
    """Draw from the standard normal distribution a tensor like `images` (N, ...)."""
    return _draw(torch.randn, images, generator)


def integers(high: int, count: int, generator: Generator) -> Tensor:
    """Draw `count` integers from [0, high), int64 on the CPU."""
    if isinstance(generator, torch.Generator):
        return torch.randint(high, (count,), generator=generator)
    return torch.cat([torch.randint(high, (1,), generator=each) for each in generator])


def _draw(draw: Callable[..., Tensor], images: Tensor, generator: Generator) -> Tensor:
    if isinstance(generator, torch.Generator):
        drawn = draw(images.shape, generator=generator)
    else:
        drawn = torch.stack([draw(images.shape[1:], generator=each) for each in generator])
    return drawn.to(images)


def each_image(generator: Generator, count: int) -> list[torch.Generator]:
    """One generator for each of `count` images, from one for the batch if need be."""
    if not isinstance(generator, torch.Generator):
        return list(generator)
    seeds: list[int] = torch.randint(2**62, (count,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def subset(generator: Generator, chosen: Tensor) -> Generator:
    """Keep the generators of the images that the mask (N,) chooses."""
    if isinstance(generator, torch.Generator):
        return generator
    return [each for each, keep in zip(generator, chosen.tolist(), strict=True) if keep]
