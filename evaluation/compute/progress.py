"""How far a shard is, also within a batch whose attack takes long."""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

OnProgress = Callable[[float, int], None]
"""Receives the images that are done, those of a batch in parts, and how many there are."""

REPORT_S = 1.0
"""How often at most a batch reports, seconds."""

GRADIENT_PASSES = 3
"""What a pass with its gradient counts, as `Attack.passes` counts it."""

ALMOST = 0.99
"""Share of a batch that passes alone never exceed: the estimate is no measurement."""


class _Reporter:
    """Counts the passes of images through models while a batch runs."""

    def __init__(self, passes: int, images: int, on_images: Callable[[float], None]) -> None:
        self._expected, self._images, self._on_images = passes * images, images, on_images
        self._done, self._reported_at = 0, time.monotonic()

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, object]) -> None:
        with_gradient = torch.is_grad_enabled() or any(each is not None for each in inputs[1:])
        self._done += len(inputs[0]) * (GRADIENT_PASSES if with_gradient else 1)
        if time.monotonic() - self._reported_at >= REPORT_S:
            self._reported_at = time.monotonic()
            self._on_images(self._images * min(ALMOST, self._done / self._expected))


@contextmanager
def reporting_passes(
    models: Iterable[nn.Module], passes: int, *, images: int, on_images: Callable[[float], None]
) -> Generator[None]:
    """Report, about once a second, how many images of a batch are done, as its passes so far tell.

    Args:
        models: through which its images pass.
        passes: that an image may take at most.
        images: of the batch.
        on_images: receives how many are done, with fractions.
    """
    reporter = _Reporter(passes, images, on_images)
    hooks = [model.register_forward_pre_hook(reporter) for model in {*models}]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
