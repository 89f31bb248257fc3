"""The facts about a checkpoint, stored in a JSON file beside it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from common.validation import Frozen
from models.preprocess import Preprocessing
from models.registry import spec

Weights = Literal["plain", "ema"]
"""The weights as trained, or their exponential moving average."""


class ModelCard(Frozen):
    """What is needed to use a checkpoint, and the accuracy claimed for it."""

    architecture: Annotated[str, Field(description="a name that models.create knows")]
    options: Annotated[dict[str, object], Field(description="constructor arguments of the architecture")] = {}
    classes: Annotated[tuple[str, ...], Field(min_length=1, description="class names in the order of the logits")]
    preprocessing: Preprocessing = Preprocessing()
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$", description="of the checkpoint file")] = None
    weights: Annotated[Weights | None, Field(description="which weights of the file, if it has both kinds")] = None
    randomised: Annotated[
        bool,
        Field(description="whether passes of the same image differ on purpose", exclude_if=lambda value: not value),
    ] = False
    dataset: Annotated[str, Field(description="what it was trained on")] = ""
    training: Annotated[str, Field(description="how it was trained, in a sentence")] = ""
    clean_accuracy: Annotated[float | None, Field(ge=0, le=1, description="claimed top-1 accuracy, fraction")] = None
    clean_accuracy_on: Annotated[str, Field(description="the images behind the claim, with their number")] = ""
    licence: str = ""

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        return spec(name).name
