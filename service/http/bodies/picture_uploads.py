"""Uploads become pictures, pictures become tensors; the latter off the event loop."""

import base64
import binascii
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus

import torch
from fastapi import Request
from pydantic import BaseModel, ConfigDict
from torch import Tensor

import models
from common.pictures import PictureError, open_picture, picture_pixels
from service.http.bodies.forms import Upload, read_files
from service.http.bodies.json_bodies import read_body, read_json
from service.http.problems import LONGEST_ECHO, ProblemError
from service.serving.predictions import FieldError
from service.serving.queue import Picture, count_pixels

ALLOWED = (
    "multipart/form-data with one or more fields `file`, the bytes of one picture with Content-Type image/*, or "
    'application/json {"images": [base64, ...]}'
)
RAW_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"})
"""Content types that do not say what was sent; the last is what `curl --data-binary` sends by default."""


INLINE_FORM_BYTES = 2**22
"""A form up to this size is read on the event loop: that takes as long as to copy it."""

PIECE = 2**20
"""Characters of base64 that are decoded at once, a multiple of 4; no other Python code runs meanwhile, on no thread."""


class ImagesRequest(BaseModel):
    """Pictures in JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str]
    """Each the bytes of a picture in base64, also as a data URI."""


async def read_uploads(request: Request, *, most: int) -> list[Upload]:
    """Read the pictures of a request: a multipart form, one picture as the body, or JSON.

    Raises:
        ProblemError: there is none (422), there are too many (413), or the content type is another (415).
    """
    content_type = media_type(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        files = partial(read_files, request.headers["content-type"], most=most)
        uploads = await read_body(request, files, INLINE_FORM_BYTES)
    elif content_type == "application/json":
        uploads = await read_body(request, partial(_read_json, most=most))
    elif content_type.startswith("image/") or content_type in RAW_TYPES:
        uploads = [Upload("body", await request.body())]
    else:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type {content_type!r} is not accepted; send {ALLOWED}"
        )
    if not uploads:
        error = FieldError(field="file", message="no file in the form")
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"no picture was sent; send {ALLOWED}", errors=[error])
    return uploads


def _read_json(body: bytes, *, most: int) -> list[Upload]:
    images = read_json(ImagesRequest, body).images
    if len(images) > most:
        detail = f"images: {len(images)} pictures were sent, at most {most} are allowed"
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    return [upload_from_base64(f"images.{index}", text) for index, text in enumerate(images)]


def upload_from_base64(name: str, text: str) -> Upload:
    """Read a picture from base64, also from a data URI.

    Raises:
        ProblemError: it is not base64 (422).
    """
    try:
        return Upload(name, from_base64(text))
    except PictureError as error:
        wrong = FieldError(field=name, message=str(error), received=repr(text[:LONGEST_ECHO]))
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(wrong), errors=[wrong]) from error


def from_base64(text: str) -> bytes:
    """Read the bytes of a picture from base64, also from a data URI.

    Raises:
        PictureError: it is not base64.
    """
    encoded = text.partition(";base64,")[2] if text.startswith("data:") else text
    try:
        if "=" in encoded[:-2]:
            raise ValueError("data after the padding")
        pieces = (encoded[start : start + PIECE] for start in range(0, len(encoded), PIECE))
        return b"".join(base64.b64decode(each, validate=True) for each in pieces)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"not base64: {error}") from error


def media_type(header: str) -> str:
    """Read the type, such as "image/png", from a `Content-Type`; "" where there is none."""
    return header.partition(";")[0].strip().lower()


def pixels_to_decode(upload: Upload, *, max_pixels: int) -> int:
    """Read from a picture's header how many pixels will be decoded: 0 where it is broken or they are too many."""
    try:
        pixels = picture_pixels(upload.data)
    except PictureError:
        return 0
    return pixels if pixels <= max_pixels else 0


def require_few_pixels(pictures: Iterable[Picture], most: int) -> None:
    """Refuse a request whose pictures would take too long to decode, before any is.

    Raises:
        ProblemError: they have more pixels together (413).
    """
    if (total := count_pixels(pictures)) > most:
        detail = (
            f"the pictures have {total} pixels together, at most {most} are allowed in one request; send fewer at once"
        )
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def decode(upload: Upload, preprocessing: models.Preprocessing, *, max_pixels: int) -> Tensor:
    """Decode and preprocess one upload: 8-bit pixels (3, H, W), which `models.scaled` turns into an image.

    Raises:
        PictureError: it is not a picture that can be used.
    """
    return torch.from_numpy(preprocessing.pixels(open_picture(upload.data, max_pixels=max_pixels)))
