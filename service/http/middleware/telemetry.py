"""What every request gets, whatever answers it: an id to find it by, and its time in the metrics."""

import os
import re
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.pictures import PictureError
from service.metrics import Metrics
from service.serving.queue import Answer

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""As W3C Trace Context has it."""


class Telemetry:
    """Answers carry `X-Request-ID`, the client's own if it sent one, and its `traceparent` if it is one.

    Args:
        app: what is behind it.
        metrics: where requests are counted, by route.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure from the header to the last byte."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), "none"
        own = identity(Headers(scope=scope))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] += own
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.request_seconds.labels(scope["method"], _route(scope), status).observe(seconds)


def identity(given: Headers) -> list[tuple[bytes, bytes]]:
    """The headers by which an answer is found again, from those of its request."""
    request_id, traceparent = given.get("x-request-id", ""), given.get("traceparent", "")
    if not _ID.fullmatch(request_id):
        request_id = os.urandom(16).hex()
    trace = [(b"traceparent", traceparent.encode())] if _TRACE.fullmatch(traceparent) else []
    return [(b"x-request-id", request_id.encode()), *trace]


def _route(scope: Scope) -> str:
    """The pattern that a path matched, not the path: anyone could make up paths without end."""
    route: Any = scope.get("route")
    return getattr(route, "path", "none")


def server_timing(answers: Sequence[Answer | PictureError]) -> dict[str, str]:
    """Tell in a header where the time of the slowest picture went, in milliseconds."""
    times = [(each.queue_s, each.preprocess_s, each.forward_s) for each in answers if isinstance(each, Answer)]
    queue, preprocess, forward = (1000 * max(stage) for stage in zip(*times, strict=True))
    return {"Server-Timing": f"queue;dur={queue:.1f}, preprocess;dur={preprocess:.1f}, forward;dur={forward:.1f}"}
