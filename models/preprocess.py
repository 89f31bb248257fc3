"""Turns a picture into the tensor that a classifier takes; predictions, evaluations and training share this object."""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from common import canonical_json
from common.pictures import PictureError
from common.validation import Frozen

Channels = tuple[float, float, float]

CropMode = Literal["center", "squash", "border"]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_LONGEST = 16


class Preprocessing(Frozen):
    """Resize, crop the centre, scale to [0, 1]; normalisation happens inside the classifier.

    `crop_mode` has timm's names: "center" resizes the shorter side, "squash" both sides to the same length; "border" resizes the
    longer side and fills the rest of the square with the mean.

    The defaults are those of the ImageNet evaluations in the papers that this package implements.
    """

    resize: Annotated[
        int, Field(ge=1, le=4096, description="length after resizing of the side that crop_mode names, pixels")
    ] = 256
    crop: Annotated[int, Field(ge=1, le=4096, description="side of the square cut from the centre, pixels")] = 224
    crop_mode: Annotated[
        CropMode, Field(description="resize the shorter side, both sides (squash) or the longer side (border)")
    ] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Annotated[Channels, Field(description="subtracted from [0, 1] pixels, per channel")] = (0.485, 0.456, 0.406)
    std: Annotated[Channels, Field(description="divided by afterwards, per channel")] = (0.229, 0.224, 0.225)

    @field_validator("mean", "std")
    @classmethod
    def _on_the_scale_of_pixels(cls, values: Channels, info: ValidationInfo) -> Channels:
        lowest_is_fine = info.field_name == "mean"  # nothing can be divided by 0
        if not all(0 <= value <= 1 and (value or lowest_is_fine) for value in values):
            raise ValueError(
                f"{list(values)} is not on the [0, 1] scale of pixels ({'0 to 1' if lowest_is_fine else 'above 0, at most 1'} "
                "is allowed). Divide values on a 0-255 scale by 255: ImageNet's 123.675 -> 0.485, 58.395 -> 0.229"
            )
        return values

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocessing":
        if self.crop > self.resize:
            raise ValueError(f"crop must be at most resize, got crop {self.crop} and resize {self.resize}")
        return self

    @property
    def geometry(self) -> str:
        """The fields that decide `pixels`, as JSON: all but `std`, and all but `mean` unless it fills a border."""
        unused = {"std"} if self.crop_mode == "border" else {"mean", "std"}
        return canonical_json(self.model_dump(mode="json", exclude=unused))

    def __call__(self, picture: Image.Image) -> Tensor:
        """Turn a picture of any size into a float32 tensor (3, crop, crop) with values in [0, 1], as torchvision's transforms do.

        Raises:
            PictureError: as for `pixels`.
        """
        return torch.from_numpy(np.divide(self.pixels(picture), np.float32(255)))  # torch would wake its threads

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Turn a picture of any size into 8-bit pixels (3, crop, crop), which `scaled` turns into an image.

        Transparency is ignored; 16-bit grey is divided by 257. Only the middle of a strip longer than 16 times its width is used.

        Raises:
            PictureError: the picture's mode has no fixed range of values ("I", "F"), or no conversion to RGB.
        """
        picture = _rgb(_bounded(picture) if self.crop_mode == "center" else picture)
        resized = picture.resize(self._resized(*picture.size), _RESAMPLING[self.interpolation])
        return np.asarray(self._cropped(resized)).transpose(2, 0, 1).copy()

    def tensor_pixels(self, decoded: Tensor) -> Tensor:
        """Do what `pixels` does, with PyTorch and on any device.

        Args:
            decoded: a picture's 8-bit pixels (3, H, W), in RGB.

        Returns:
            8-bit pixels (3, crop, crop). Few differ from those of `pixels`, and by at most 2 where the picture shrinks.
        """
        if self.crop_mode == "center":
            left, top, right, bottom = _middle_box(decoded.shape[2], decoded.shape[1])
            decoded = decoded[:, top:bottom, left:right]
        width, height = self._resized(decoded.shape[2], decoded.shape[1])
        resized = decoded[None].float()
        first = min((decoded.shape[1], width), (height, decoded.shape[2]), key=math.prod)
        for size in (first, (height, width)):  # Pillow too rounds in between
            resized = functional.interpolate(resized, size, mode=self.interpolation, antialias=True)
            resized = resized.round_().clamp_(0, 255)
        left, top = _middle(width, self.crop), _middle(height, self.crop)
        frame = (-left, self.crop + left - width, -top, self.crop + top - height)  # negative ones crop
        channels = zip(resized[0].byte(), self.mean, strict=True)
        return torch.stack([functional.pad(each, frame, value=round(255 * mean)) for each, mean in channels])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        match self.crop_mode:
            case "center":
                shorter = min(width, height)
                return self.resize * width // shorter, self.resize * height // shorter
            case "squash":
                return self.resize, self.resize
            case "border":
                ratio = max(width, height) / self.resize
                return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _cropped(self, picture: Image.Image) -> Image.Image:
        left, top = (_middle(side, self.crop) for side in picture.size)
        if min(picture.size) >= self.crop:
            return picture.crop((left, top, left + self.crop, top + self.crop))
        red, green, blue = (round(255 * value) for value in self.mean)
        framed = Image.new("RGB", (self.crop, self.crop), (red, green, blue))
        framed.paste(picture, (-left, -top))
        return framed


def scaled(pixels: Tensor) -> Tensor:
    """Scale 8-bit pixels to float32 in [0, 1] on their device, bit for bit as `Preprocessing` does."""
    white = torch.full((), 255.0, device=pixels.device)  # a GPU multiplies by the inverse of a plain number
    return pixels.float().div_(white)


def _middle(side: int, crop: int) -> int:
    """Where a crop begins, rounded as torchvision does; negative if the picture is smaller than the crop."""
    return round((side - crop) / 2) if side > crop else -((crop - side) // 2)


def _bounded(picture: Image.Image) -> Image.Image:
    box = _middle_box(*picture.size)
    return picture if box == (0, 0, *picture.size) else picture.crop(box)


def _middle_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The middle of a long strip: resizing its shorter side would turn a few bytes into gigabytes; all of any other picture."""
    limit = _LONGEST * min(width, height)
    left, top = (max(0, (length - limit) // 2) for length in (width, height))
    return left, top, left + min(width, limit), top + min(height, limit)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("I", "F"):
        raise PictureError(
            f"a picture of mode {picture.mode} has no fixed range of values: save it with 8 or 16 bits a channel"
        )
    if picture.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns when it has to drop a palette's transparency itself
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise PictureError(f"a picture of mode {picture.mode} cannot be used: {error}") from None
