"""The open inference protocol (KServe V2) around a model: what it takes and gives, requests to pictures, logits to answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from common import unknown_name
from common.pictures import PictureError
from models import Preprocessing
from service.http.bodies.json_bodies import MOST_VALUES, read_json
from service.http.bodies.picture_uploads import Upload, decode, from_base64, pixels_to_decode
from service.kserve import tensors
from service.kserve.schemas import (
    NO_SHARED_MEMORY,
    BinarySize,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    OutputParameters,
    RequestedOutput,
    TensorMetadata,
)
from service.kserve.tensors import Floats, TensorError, TooLargeError
from service.serving.deployments import Deployment
from service.serving.queue import Picture

IMAGE, PIXELS = "image", "pixels"
LOGITS, PROBABILITIES = "logits", "probabilities"


def inputs_of(deployment: Deployment) -> list[TensorMetadata]:
    """What a model takes: encoded pictures, or images (-1, 3, H, W) in [0, 1] that are already resized and cropped."""
    side = deployment.card.preprocessing.crop
    return [
        TensorMetadata(name=IMAGE, datatype="BYTES", shape=[-1]),
        TensorMetadata(name=PIXELS, datatype="FP32", shape=[-1, 3, side, side]),
    ]


def outputs_of(deployment: Deployment) -> list[TensorMetadata]:
    """What a model gives (-1, K)."""
    shape = [-1, len(deployment.card.classes)]
    return [TensorMetadata(name=name, datatype="FP32", shape=shape) for name in (LOGITS, PROBABILITIES)]


@dataclass(frozen=True)
class Sent:
    """A request that was read.

    Attributes:
        request: its JSON.
        input_name: `image` or `pixels`.
        pictures: what was sent.
        timeout_s: longest wait; None is the service's own.
    """

    request: InferRequest
    input_name: str
    pictures: list[Picture]
    timeout_s: float | None


def read_request(
    body: bytes, header_bytes: str | None, deployment: Deployment, *, max_images: int, max_pixels: int
) -> Sent:
    """Read a request as far as it can be without looking into its pictures.

    Args:
        body: unpacked.
        header_bytes: `Inference-Header-Content-Length`.
        deployment: the model that is asked.
        max_images: most pictures.
        max_pixels: of each, width times height.

    Raises:
        RequestValidationError: the JSON is not a request.
        UnknownNameError: the model has no such input or output.
        TensorError: a tensor is not what the model takes, or not what its shape says.
        TooLargeError: there are too many pictures.
    """
    header, rest = tensors.split(body, header_bytes)
    side = deployment.card.preprocessing.crop
    request = read_json(InferRequest, header, MOST_VALUES + max_images * 3 * side * side)
    _check_outputs(request, deployment)
    sizes = [(each.name, each.parameters.binary_data_size if each.parameters else None) for each in request.inputs]
    parts = list(tensors.share_out(rest, sizes))
    for each in request.inputs:
        _check_input(each, deployment, max_images)
    if len(request.inputs) > 1:
        names = ", ".join(each.name for each in request.inputs)
        raise TensorError(f"inputs: send one of {IMAGE} and {PIXELS}, received {names}")
    (sent,), (part,) = request.inputs, parts
    data = _data(sent, part)
    make = _encoded if sent.name == IMAGE else _ready
    pictures = list(make(sent, data, deployment.card.preprocessing, max_pixels))
    timeout_us = request.parameters.timeout if request.parameters else None
    return Sent(request, sent.name, pictures, timeout_us / 1e6 if timeout_us else None)


def _check_outputs(request: InferRequest, deployment: Deployment) -> None:
    allowed = [each.name for each in outputs_of(deployment)]
    seen: set[str] = set()
    for each in request.outputs or []:
        if each.name not in allowed:
            raise unknown_name("output", each.name[: tensors.LONGEST_ECHO], allowed)
        if each.name in seen:
            raise TensorError(f"outputs: {each.name} is asked for twice")
        seen.add(each.name)
        if each.parameters and each.parameters.shared_memory_region is not None:
            raise TensorError(f"{each.name}: {NO_SHARED_MEMORY}")


def _check_input(sent: InferInput, deployment: Deployment, max_images: int) -> None:
    allowed = {each.name: each for each in inputs_of(deployment)}
    if sent.name not in allowed:
        raise unknown_name("input", sent.name[: tensors.LONGEST_ECHO], allowed)
    wanted = allowed[sent.name]
    if sent.datatype != wanted.datatype:
        raise TensorError(f"{sent.name}: datatype must be {wanted.datatype}, received {sent.datatype[:20]!r}")
    count = sent.shape[0]
    if [-1, *sent.shape[1:]] != wanted.shape or not count:
        raise TensorError(
            f"{sent.name}: shape must be {wanted.shape}, -1 being one or more pictures; received {sent.shape}"
        )
    if count > max_images:
        raise TooLargeError(f"{sent.name}: shape {sent.shape} is {count} pictures, at most {max_images} are allowed")


def _data(sent: InferInput, part: memoryview | None) -> "memoryview | list[Any]":
    if sent.parameters and sent.parameters.shared_memory_region is not None:
        raise TensorError(f"{sent.name}: {NO_SHARED_MEMORY}")
    if (part is None) == (sent.data is None):
        both = "neither is there" if part is None else "both are there"
        raise TensorError(f"{sent.name}: send data, or a binary part with parameters.binary_data_size; {both}")
    return sent.data or [] if part is None else part


def _encoded(
    sent: InferInput, data: "memoryview | list[Any]", preprocessing: Preprocessing, max_pixels: int
) -> Iterator[Picture]:
    in_json = isinstance(data, list)
    for index, element in enumerate(tensors.read_bytes(sent.name, sent.shape, data)):
        try:
            upload = Upload(f"{sent.name}.{index}", from_base64(element.decode()) if in_json else element)
        except PictureError as error:
            yield Picture(partial(_fail, error))
            continue
        pixels = pixels_to_decode(upload, max_pixels=max_pixels)
        yield Picture(partial(decode, upload, preprocessing, max_pixels=max_pixels), pixels, upload.data)


def _fail(error: PictureError) -> NoReturn:
    raise error


def _ready(
    sent: InferInput, data: "memoryview | list[Any]", _preprocessing: Preprocessing, _max_pixels: int
) -> Iterator[Picture]:
    for pixels in tensors.read_floats(sent.name, sent.shape, data):
        yield Picture(partial(_checked, pixels))


def _checked(pixels: Floats) -> Tensor:
    """An image (3, H, W) as it was sent, if all of it is in [0, 1]."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # false for what is not a number
        raise PictureError(f"pixels must be in [0, 1], received {low:g} to {high:g}; normalisation is inside the model")
    return torch.from_numpy(pixels.copy())


def answer(request: InferRequest, logits: Tensor, deployment: Deployment) -> tuple[InferResponse, list[bytes]]:
    """Build the answer: its JSON, and the binary parts behind it.

    Args:
        request: what was asked for.
        logits: (N, K).
        deployment: the model that was asked.
    """
    all_binary = request.parameters is not None and request.parameters.binary_data_output
    outputs: list[InferOutput] = []
    parts: list[bytes] = []
    for wanted in request.outputs or [RequestedOutput(name=LOGITS)]:
        how = wanted.parameters or OutputParameters()
        values = logits if wanted.name == LOGITS else logits.softmax(1)
        output, part = _output(wanted.name, values, how, deployment.card.classes, binary=all_binary)
        outputs.append(output)
        parts.append(part)
    head = InferResponse(model_name=deployment.name, model_version=deployment.version, id=request.id, outputs=outputs)
    return head, parts


def _output(
    name: str, values: Tensor, how: OutputParameters, classes: Sequence[str], *, binary: bool
) -> tuple[InferOutput, bytes]:
    """Build one output with its binary part, which is empty where the data is in the JSON."""
    if how.classification is None:
        output = InferOutput(name=name, datatype="FP32", shape=list(values.shape))
        part = tensors.floats_to_binary(values.numpy())
        data = values.flatten()
    else:
        texts = _name_classes(values, classes, how.classification)
        output = InferOutput(name=name, datatype="BYTES", shape=[len(values), len(texts) // len(values)])
        part = tensors.bytes_to_binary([each.encode() for each in texts])
        data = texts
    if binary if how.binary_data is None else how.binary_data:
        output.parameters = BinarySize(binary_data_size=len(part))
        return output, part
    output.data = data.tolist() if isinstance(data, Tensor) else data
    return output, b""


def _name_classes(values: Tensor, classes: Sequence[str], k: int) -> list[str]:
    """Name the k highest values of each row of (N, K), the highest first, as "value:index:label"."""
    highest, indices = values.topk(min(k, len(classes)))
    pairs = zip(highest.flatten().tolist(), indices.flatten().tolist(), strict=True)
    return [f"{value:.6f}:{index}:{classes[index]}" for value, index in pairs]
