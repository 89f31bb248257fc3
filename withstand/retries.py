"""When a request is tried again: after an exponential backoff with full jitter, and not before `Retry-After`."""

import random
import time

from withstand.errors import ClientError

FIRST_S, LONGEST_S = 0.25, 8.0
"""Upper ends of the first and of the longest random pause, seconds."""


class Backoff:
    """Pauses between the tries of one request.

    Args:
        patience_s: a try that would begin later than this after the first one is not made, seconds; 0 allows one try.
    """

    def __init__(self, patience_s: float) -> None:
        self._until = time.monotonic() + patience_s
        self._tries = 0

    def pause_s(self, error: ClientError) -> float:
        """Say how long to wait before the next try, seconds.

        Raises:
            ClientError: the given one, if another try would not help or would come too late.
        """
        jitter = random.uniform(0, min(LONGEST_S, FIRST_S * 2**self._tries))  # noqa: S311  # spreads clients, no secret
        self._tries += 1
        pause = error.retry_after_s + jitter
        if not error.transient or time.monotonic() + pause >= self._until:
            raise error
        return pause
