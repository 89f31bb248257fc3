"""The classifier that attacks, evaluations and predictions use: images in [0, 1] in, logits out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.card import ModelCard


class Classifier(nn.Module):
    """A network together with its normalisation and its card.

    Args:
        network: takes normalised images (N, 3, H, W), returns logits (N, K).
        card: the facts about the checkpoint; its preprocessing gives mean and standard deviation.
        columns: increasing indices of the logits to return; None returns all.
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
        """Device of the classifier."""
        return cast(Tensor, self.mean).device

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, 3, H, W) in [0, 1]; returns logits (N, K), or only the chosen columns."""
        logits = self.network(self.normalise(images))
        return logits if self.column_index is None else logits.index_select(1, self.column_index)

    def restricted(self, columns: Sequence[int]) -> "Classifier":
        """The same network choosing among fewer classes: only these columns of its logits are returned."""
        return Classifier(self.network, self.card, columns).to(self.device).train(self.training)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, as the network expects."""
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
