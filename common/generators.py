"""The global generators of torch, numpy and Python, from which randomised models and torchattacks draw."""

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed the global generators, those of all devices in use included, and restore them afterwards.

    `torch.manual_seed` and `torch.random.fork_rng` would do the same to torch's, but take a millisecond.

    Args:
        seed: from 0 to 2**32 - 1.
    """
    numbers, chosen = np.random.get_state(), random.getstate()
    of_torch = [(each, each.get_state()) for each in _generators()]
    for generator, _ in of_torch:
        generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        for generator, state in of_torch:
            generator.set_state(state)
        np.random.set_state(numbers)
        random.setstate(chosen)


def _generators() -> list[torch.Generator]:
    of_gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.default_generator, *of_gpus]
