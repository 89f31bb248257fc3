"""A model that costs nothing: its answers measure all that is not the model.

    python -m benchmarks.serving.null serve

runs the command line with this family, so that its service knows it.
"""

from torch import Tensor, nn

from cli.main import main
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


register_family(Family(name=NULL, architectures=(ModelSpec(NULL, Null, input_shape=(3, 224, 224), paper="none"),)))

if __name__ == "__main__":
    main()
