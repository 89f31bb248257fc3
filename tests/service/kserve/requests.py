"""Requests of the open inference protocol, and the answers they should get."""

import base64
import json
import struct
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tritonclient.http import InferInput

import models
from common.pictures import open_picture
from evaluation import Catalog
from tests.service.pictures import DISC

INFER = "/v2/models/tiny/infer"


def image_input(*pictures: bytes, binary: bool = True) -> InferInput:
    sent = InferInput("image", [len(pictures)], "BYTES")
    elements = pictures if binary else [base64.b64encode(each) for each in pictures]
    sent.set_data_from_numpy(np.array(elements, dtype=object), binary_data=binary)
    return sent


def pixels_input(pixels: NDArray[np.float32], *, binary: bool = True) -> InferInput:
    sent = InferInput("pixels", list(pixels.shape), "FP32")
    sent.set_data_from_numpy(pixels, binary_data=binary)
    return sent


def prepared(catalog: Catalog, *pictures: bytes) -> torch.Tensor:
    preprocessing = catalog.checkpoint("tiny").card().preprocessing
    return torch.stack([preprocessing(open_picture(each)) for each in pictures])


def logits_of(catalog: Catalog, images: torch.Tensor) -> NDArray[np.float32]:
    """Logits computed without the service."""
    with torch.inference_mode():
        return models.load("tiny", folders=catalog.model_folders)(images).numpy()


def json_request(**changes: Any) -> dict[str, Any]:
    sent = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(DISC).decode()]}
    return {"inputs": [sent | changes]}


def with_parts(request: dict[str, Any], *parts: bytes, length: int | str | None = None) -> dict[str, Any]:
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return {"content": b"".join((head, *parts)), "headers": headers}


def binary_request(size: int) -> dict[str, Any]:
    return json_request(data=None, parameters={"binary_data_size": size})


ELEMENT = struct.pack("<I", len(DISC)) + DISC
