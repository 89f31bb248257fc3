"""The one error of the client."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

TRANSIENT = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""


class ClientError(RuntimeError):
    """The service answered with an error, or not at all. The message has the reason.

    Attributes:
        status: of the answer; None if there was none.
        problem: body of the answer (RFC 9457), with its `detail` and `errors`; empty if it had another form.
        retry_after_s: how long the service asks to wait before the next try, seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: dict[str, Any] | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status, self.problem, self.retry_after_s = status, problem or {}, retry_after_s

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in TRANSIENT


def checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer that has been read.

    Raises:
        ClientError: it is an error.
    """
    if not answer.is_error:
        return answer
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    problem: dict[str, Any] = answer.json() if is_problem else {}
    raise ClientError(
        f"{answer.status_code}: {problem.get('detail', answer.text[:200])}",
        status=answer.status_code,
        problem=problem,
        retry_after_s=_seconds(answer.headers.get("retry-after", "")),
    )


@contextmanager
def reaching(url: str) -> Generator[None]:
    """Turn what goes wrong on the way to the service and back into a `ClientError`."""
    try:
        yield
    except httpx.TransportError as error:
        raise ClientError(f"no answer from {url}: {str(error) or type(error).__name__}") from error


def _seconds(retry_after: str) -> float:
    """Read a number of seconds, or a date; 0 for anything else."""
    try:
        asked = float(retry_after) if retry_after.isdigit() else _until(parsedate_to_datetime(retry_after))
    except ValueError:
        return 0.0
    return max(asked, 0.0)


def _until(date: datetime) -> float:
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
