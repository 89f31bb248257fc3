"""Forms: which bytes are a file's, and what is no form."""

from http import HTTPStatus

import pytest

from service.http.bodies.forms import Upload, read_files
from service.http.problems import ProblemError

BOUNDARY = b"--boundary"
CONTENT_TYPE = "multipart/form-data; boundary=boundary"


def part(content: bytes, disposition: bytes) -> bytes:
    return b"\r\n".join((BOUNDARY, b"Content-Disposition: form-data; " + disposition, b"", content, b""))


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + BOUNDARY + b"--\r\n"


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"\r" * 100, b"\r\n--boundar", b"\r\n--", bytes(range(256)) * 1000], ids=len
)
def test_a_file_is_read_as_it_was_sent(content: bytes) -> None:
    sent = form(part(content, b'name="file"; filename="a.png"'), part(content[::-1], b'name="other"; filename="b.png"'))
    assert read_files(CONTENT_TYPE, sent, most=2) == [Upload("a.png", content), Upload("b.png", content[::-1])]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'name="file"; filename=""', "file 1"),
        ('name="file"; filename="ä.png"'.encode(), "ä.png"),
        (b'name="file"; filename="\xff.png"', "\ufffd.png"),
    ],
)
def test_a_file_has_the_name_that_was_sent_or_its_number(disposition: bytes, name: str) -> None:
    sent = form(part(b"text", b'name="note"'), part(b"x", disposition))
    assert read_files(CONTENT_TYPE, sent, most=2) == [Upload(name, b"x")]


@pytest.mark.parametrize(
    ("content_type", "sent", "why"),
    [
        ("multipart/form-data", form(part(b"x", b'name="file"; filename="a"')), "broken"),
        (CONTENT_TYPE, b"no form", "broken"),
        (CONTENT_TYPE, b"", "ends before its last boundary"),
        (CONTENT_TYPE, form(part(b"x", b'name="file"; filename="a"'))[:-8], "ends before its last boundary"),
        (CONTENT_TYPE, form(part(b"x", b'filename="a"')), "a part has no Content-Disposition with a name"),
        ("multipart/form-data; boundary=" + "x" * 1000, b"", "Boundary"),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, sent: bytes, why: str) -> None:
    with pytest.raises(ProblemError, match=why) as refused:
        read_files(content_type, sent, most=2)
    assert refused.value.status == HTTPStatus.BAD_REQUEST


def test_fields_are_counted() -> None:
    sent = form(*(part(b"x", b'name="file"; filename="a"') for _ in range(3)))
    assert len(read_files(CONTENT_TYPE, sent, most=3)) == 3
    with pytest.raises(ProblemError, match="more than 2 fields, at most 2 are allowed") as refused:
        read_files(CONTENT_TYPE, sent, most=2)
    assert refused.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
