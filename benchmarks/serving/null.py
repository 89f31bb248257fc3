"""A model that costs nothing: its answers measure all that is not the model.

    python -m benchmarks.serving.null serve

runs the command line with this family, so that its service knows it.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.registry import Family, ModelSpec, register_family

NULL = "null"


class Null(nn.Module):
    """A linear layer of the first pixel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes)."""
        return self.fc(images[:, :, 0, 0])


@cache
def register() -> None:
    """Make the family known to this process."""
    spec = ModelSpec(NULL, Null, input_shape=(3, 224, 224), paper="none")
    register_family(Family(name=NULL, architectures=(spec,)))


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of it with its card; returns the path."""
    register()
    folder.mkdir()
    torch.manual_seed(0)
    path = folder / f"{NULL}.safetensors"
    save_file(Null(1000).state_dict(), path)
    card = models.ModelCard(architecture=NULL, classes=tuple(f"class {index}" for index in range(1000)))
    path.with_suffix(".json").write_text(card.model_dump_json())
    return path


if __name__ == "__main__":
    from cli.main import main

    register()
    main()
