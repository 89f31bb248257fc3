"""Forms with one large file: its bytes go to disk as they come, and nothing of it stays in memory."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.http.problems import ProblemError
from service.serving.predictions import FieldError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

LONGEST_FIELD_BYTES = 2**20
"""Longest field of a form beside the file."""
MOST_PARTS = 16


@dataclass
class _Form:
    """Receives the parts of a form; the part `file` is written to a file."""

    file: BinaryIO
    filename: str | None = None
    fields: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    parts: int = 0
    ended: bool = False
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _disposition: bytes = b""
    _name: str | None = None

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self.parts += 1
        self._disposition = b""
        if self.parts > MOST_PARTS:
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the form has more than {MOST_PARTS} parts")

    def _end(self) -> None:
        self.ended = True

    def _end_header(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name != "file":
            self.fields[self._name] = bytearray()
        elif self.filename is not None:
            raise _wrong("file", "more than one file in the form")
        else:
            self.filename = options.get(b"filename", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.file.write(data[start:end])
            return
        value = self.fields[self._name or ""]
        value.extend(data[start:end])
        if len(value) > LONGEST_FIELD_BYTES:
            detail = f"the field {self._name!r} has more than {LONGEST_FIELD_BYTES} bytes"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _wrong(name: str, message: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {message}", errors=[FieldError(field=name, message=message)]
    )


def described_form(added: str, file: str = "", **fields: dict[str, Any]) -> dict[str, Any]:
    """Describe a form in OpenAPI: its `file`, the name under which it is added, and more fields by their schemas.

    Args:
        added: what the file is, such as "model".
        file: what it must be.
        fields: further ones.
    """
    name = {"type": "string", "description": f"of the {added}; by default the file's, without its ending"}
    sent = {"type": "string", "format": "binary"} | ({"description": file} if file else {})
    schema = {"type": "object", "required": ["file"], "properties": {"file": sent, "name": name, **fields}}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


@asynccontextmanager
async def receive_file(
    request: Request, folder: Path, check_name: Callable[[str], None]
) -> AsyncGenerator[tuple[Path, str, dict[str, bytes]]]:
    """Write the part `file` of a multipart form into a folder, as long as the block lasts.

    Args:
        request: whose body is the form.
        folder: made if need be.
        check_name: raises ValueError for the name of a file of another kind.

    Returns:
        Where it is, its name at the sender, and the other fields.

    Raises:
        ProblemError: the form is broken (400), has no file, or one of another kind (422), or a field too long (413).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as staging:
        path = Path(staging) / "upload"
        with path.open("wb") as file:
            form = _Form(file)
            await _parse(request, form)
        if form.filename is None:
            raise _wrong("file", "no file in the form")
        try:
            check_name(form.filename)
        except ValueError as error:
            raise _wrong("file", str(error)) from error
        named = path.rename(path.with_suffix(Path(form.filename).suffix))
        yield named, Path(form.filename).name, {name: bytes(value) for name, value in form.fields.items()}


async def _parse(request: Request, form: _Form) -> None:
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary")
    if not boundary:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the form's Content-Type names no boundary")
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            await asyncio.to_thread(parser.write, chunk)
    except FormParserError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"the form is broken: {error}") from error
    if not form.ended:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the form is broken: it ends before its last boundary")
