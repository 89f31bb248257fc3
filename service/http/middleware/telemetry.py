"""What every request gets, whatever answers it: an id to find it by, and its time in the metrics."""

import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
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
        given = Headers(scope=scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = _request_id(given.get("x-request-id", ""))
                if _TRACE.fullmatch(trace := given.get("traceparent", "")):
                    headers["traceparent"] = trace
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.request_seconds.labels(scope["method"], _route(scope), status).observe(seconds)


def _request_id(given: str) -> str:
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The pattern that a path matched, not the path: anyone could make up paths without end."""
    route: Any = scope.get("route")
    return getattr(route, "path", "none")


def server_timing(answers: Sequence[Answer | PictureError]) -> dict[str, str]:
    """Tell in a header where the time of the slowest picture went, in milliseconds."""
    good = [each for each in answers if isinstance(each, Answer)]
    stages = {stage: max(getattr(each, f"{stage}_s") for each in good) for stage in ("queue", "preprocess", "forward")}
    return {"Server-Timing": ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in stages.items())}
