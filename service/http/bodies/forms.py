"""Reads the files of a form from its bytes.

Starlette's own reader is made for forms that do not fit into memory: each file becomes a temporary one, read on another thread.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from common.pictures import PictureError
from service.http.problems import ProblemError
from service.serving.predictions import FieldError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass(frozen=True, slots=True)
class Upload:
    """The bytes of one file that a client sent."""

    name: str
    data: bytes

    def wrong(self, error: PictureError) -> FieldError:
        """Say what is wrong with it."""
        return FieldError(field=self.name, message=str(error), received=f"{len(self.data)} bytes")


@dataclass
class _Parts:
    """What the parser reports: of each part its headers, by lower-case name, and its pieces."""

    most: int
    parts: list[tuple[dict[bytes, bytes], list[bytes]]] = field(
        default_factory=list[tuple[dict[bytes, bytes], list[bytes]]]
    )
    is_complete: bool = False
    _name: bytes = b""
    _value: bytes = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == self.most:
            detail = f"the form has more than {self.most} fields, at most {self.most} are allowed"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        self.parts.append(({}, []))

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self.parts[-1][0][self._name.lower()] = self._value
        self._name = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][1].append(data[start:end])

    def _end(self) -> None:
        self.is_complete = True


def read_files(content_type: str, body: bytes, *, most: int) -> list[Upload]:
    """Read the files of a multipart form, in their order; fields that are no files are passed over.

    Args:
        content_type: the header, with the boundary.
        body: the form.
        most: fields and files that it may have.

    Raises:
        ProblemError: it is no form (400), or has more parts (413).
    """
    found = _Parts(most)
    try:
        parser = MultipartParser(parse_options_header(content_type)[1].get(b"boundary", b""), found.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _broken(str(error)) from error
    if not found.is_complete:
        raise _broken("it ends before its last boundary")
    files: list[Upload] = []
    for index, (headers, pieces) in enumerate(found.parts):
        _, options = parse_options_header(headers.get(b"content-disposition"))
        if b"name" not in options:
            raise _broken("a part has no Content-Disposition with a name")
        if b"filename" in options:
            name = options[b"filename"].decode(errors="replace")
            files.append(Upload(name or f"file {index}", b"".join(pieces)))
    return files


def _broken(how: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, f"the form is broken: {how}")
