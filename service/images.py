"""Uploads become pictures, pictures become tensors; off the event loop."""

from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

from fastapi import Request
from PIL import ImageOps
from starlette.datastructures import UploadFile
from torch import Tensor

import models
from common.pictures import PictureError, open_picture
from service.errors import FieldError, ServiceError

ALLOWED = "multipart/form-data with one or more fields `file`, or the bytes of one picture with Content-Type image/*"
RAW_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"})
"""Types that say nothing of what was sent; the last is what `curl --data-binary` sends by default."""


@dataclass(frozen=True)
class Upload:
    """The bytes of one file that a client sent."""

    name: str
    data: bytes


async def read_uploads(request: Request, *, most: int) -> list[Upload]:
    """Read the pictures of a request: a multipart form, or one picture as the body.

    Raises:
        ServiceError: there is none (422), there are too many (413), or the content type is another (415).
    """
    content_type = _media_type(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        uploads = await _read_form(request, most=most)
    elif content_type.startswith("image/") or content_type in RAW_TYPES:
        uploads = [Upload("body", await request.body())]
    else:
        raise ServiceError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type {content_type!r} is not accepted; send {ALLOWED}"
        )
    if not uploads:
        error = FieldError(field="file", message="no file in the form")
        raise ServiceError(HTTPStatus.UNPROCESSABLE_ENTITY, f"no picture was sent; send {ALLOWED}", errors=[error])
    return uploads


async def _read_form(request: Request, *, most: int) -> list[Upload]:
    async with request.form(max_files=most, max_fields=most) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Upload(file.filename or f"file {index}", await file.read()) for index, file in enumerate(files)]


def _media_type(header: str) -> str:
    message = Message()
    message["Content-Type"] = header
    return message.get_content_type() if header else ""


def decode(upload: Upload, preprocessing: models.Preprocessing, *, max_pixels: int) -> Tensor | FieldError:
    """Decode and preprocess one upload, turned upright if its EXIF data asks for it; a broken one fails alone."""
    try:
        picture = open_picture(upload.data, max_pixels=max_pixels)
        return preprocessing(ImageOps.exif_transpose(picture))
    except PictureError as error:
        return FieldError(field=upload.name, message=str(error), received=f"{len(upload.data)} bytes")
