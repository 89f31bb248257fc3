"""A model that reads a number from its device in each pass, so that no CUDA graph can be captured of it."""

from torch import Tensor, nn


class Waiting(nn.Module):
    """Gives what another model gives.

    Args:
        inner: the other model, for images whose values add up to 0 or more.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """Wait for the sum of the images."""
        return self.inner(images) * (1 if images.sum().item() >= 0 else -1)
