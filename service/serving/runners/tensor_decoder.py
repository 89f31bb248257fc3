"""Decodes JPEGs with torchvision, which uses nvJPEG on a GPU, and resizes them there."""

from functools import partial
from threading import Lock

import torch
from torch import Tensor

import models
from common.containers import read_header
from common.containers.header import UPRIGHT

MOST_PIXELS = 2**24
"""Width times height of the largest picture: resizing it takes 12 bytes for each of them on the device."""

_END = b"\xff\xd9"


class TensorDecoder:
    """Turns usual JPEGs into pixels on a device; only one at a time, as torchvision's decoder does.

    Args:
        device: such as "cuda:1".
    """

    def __init__(self, device: str) -> None:
        from torchvision.io import ImageReadMode, decode_jpeg  # noqa: PLC0415  # a service starts without torchvision

        where = torch.device(device)
        self._decode = partial(decode_jpeg, mode=ImageReadMode.RGB, device=where)
        self._lock, self._stream = Lock(), torch.cuda.Stream(where) if where.type == "cuda" else None

    def __call__(self, data: bytes, preprocessing: models.Preprocessing) -> Tensor | None:
        """Decode and preprocess a picture: 8-bit pixels (3, crop, crop) on the host.

        Returns:
            None for what another decoder should look at: other formats, progressive, turned, cut short, very large or broken.
        """
        header = read_header(data)
        upright = header.orientation == UPRIGHT and header.pixels <= MOST_PIXELS
        if not (header.baseline and upright and data.endswith(_END)):
            return None
        encoded = torch.frombuffer(bytearray(header.bare()), dtype=torch.uint8)
        try:
            # The lock lasts until the host has the pixels: the decoder writes into memory that the stream may still read otherwise
            # (pytorch/vision pull request 9606).
            with self._lock, torch.cuda.stream(self._stream):
                (decoded,) = self._decode([encoded])
                return preprocessing.tensor_pixels(decoded).cpu()
        except RuntimeError:  # anything a decoder raises
            return None
