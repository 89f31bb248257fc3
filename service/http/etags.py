"""Tags of answers: whoever holds an answer that is still the same is not sent it again."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response

from common import text_sha256

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.NOT_MODIFIED.value: {"description": "`If-None-Match` names what this would answer"}
}
"""Described as an answer of routes with tags."""


def unless_known(request: Request, facts: str, make: Callable[[], Response]) -> Response:
    """Make an answer, unless the client holds it.

    Args:
        request: whose `If-None-Match` says what the client holds.
        facts: all that the answer depends on.
        make: makes it.
    """
    tag = f'W/"{text_sha256(facts)[:16]}"'  # weak: it is the same whether compressed or not
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if {tag, "*"} & {each.strip() for each in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    answer = make()
    answer.headers.update(headers)
    return answer
