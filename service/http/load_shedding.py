"""Refuses predictions that there is no room for as soon as their header is read: a refusal must cost little."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response

from service.http.middleware.security_headers import NOSNIFF
from service.http.middleware.telemetry import identity
from service.http.problems import known_problem
from service.metrics import Metrics
from service.serving.errors import OverloadedError
from service.serving.scheduler import Scheduler

PREDICTING = ("/predict", "/classify", "/infer")
"""How the paths of predictions end."""

SHEDDING = "shedding"
"""Name of the `LoadShedding` in what the application's lifespan gives to connections."""

AT_ONCE = 50
"""Refusals a second that are answered at once. Clients that ask again without a pause could otherwise fill a core with refusals."""

PAUSE_S = 1.0
"""How long further ones are held back: as long as their Retry-After asks for at least."""


@dataclass(frozen=True)
class Refusal:
    """What a client is told, and when."""

    answer: Response
    pause_s: float


class LoadShedding:
    """Looks at requests before anything of them but the header is read, and before they pass any middleware.

    Args:
        scheduler: knows whether some device has room for another picture.
        metrics: where refused requests are counted, too.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._second, self._refused = 0, 0

    def refusal(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Build a 503 with Retry-After for a prediction that there is no room for; None lets a request pass."""
        if method != "POST" or not path.endswith(PREDICTING):
            return None
        try:
            self._scheduler.require_room()
        except OverloadedError as error:
            refusal = Refusal(known_problem(error), self._pause_s())
            refusal.answer.raw_headers += [NOSNIFF, *identity(Headers(raw=[*headers]))]
            self._metrics.request_seconds.labels("POST", "none", str(refusal.answer.status_code)).observe(
                refusal.pause_s
            )
            return refusal
        return None

    def _pause_s(self) -> float:
        second = int(time.monotonic())
        self._refused = self._refused + 1 if second == self._second else 1
        self._second = second
        return PAUSE_S if self._refused > AT_ONCE else 0.0
