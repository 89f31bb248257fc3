"""From a picture to the tensor a classifier takes: one object, shared by serving, evaluation and training."""

from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Channels = tuple[float, float, float]


class Preprocessing(BaseModel):
    """Resize the shorter side, crop the centre, scale to [0, 1]; normalisation happens inside the classifier.

    The defaults are those of the ImageNet evaluations in the papers of this package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Annotated[int, Field(ge=1, le=4096, description="length of the shorter side after resizing, pixels")] = 256
    crop: Annotated[int, Field(ge=1, le=4096, description="side of the square cut from the centre, pixels")] = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Annotated[Channels, Field(description="subtracted from [0, 1] pixels, per channel")] = (0.485, 0.456, 0.406)
    std: Annotated[Channels, Field(description="divided by afterwards, per channel")] = (0.229, 0.224, 0.225)

    def __call__(self, picture: Image.Image) -> Tensor:
        """Turn a picture of any mode and size into a float32 tensor (3, crop, crop) with values in [0, 1]."""
        mode = InterpolationMode(self.interpolation)
        resized = F.resize(picture.convert("RGB"), [self.resize], interpolation=mode, antialias=True)
        return F.pil_to_tensor(F.center_crop(resized, [self.crop, self.crop])).float().div_(255)
