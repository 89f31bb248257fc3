"""What the rest of the system attacks and serves: images in [0, 1] in, logits out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.card import ModelCard


class Classifier(nn.Module):
    """A network with its normalisation inside and its card beside it.

    Args:
        network: takes normalised images (N, 3, H, W), returns logits (N, K).
        card: the facts of the checkpoint; its preprocessing gives mean and standard deviation.
        columns: indices of the logits that are returned, increasing; None returns all.
    """

    column_index: Tensor | None

    def __init__(self, network: nn.Module, card: ModelCard, columns: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.card = card
        self.columns = None if columns is None else tuple(columns)
        self.register_buffer("column_index", None if columns is None else torch.tensor(columns), persistent=False)
        for name, values in (("mean", card.preprocessing.mean), ("std", card.preprocessing.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return cast(Tensor, self.mean).device

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, 3, H, W) in [0, 1]; returns logits (N, K), or (N, columns) where only some are asked for."""
        logits = self.network(self.normalise(images))
        return logits if self.column_index is None else logits.index_select(1, self.column_index)

    def restricted(self, columns: Sequence[int]) -> "Classifier":
        """The same network, of whose logits only some are returned: a choice among fewer classes."""
        return Classifier(self.network, self.card, columns).to(self.device).train(self.training)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation: [0, 1] images to what the network takes."""
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
