"""What one device may hold."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one device may hold.

    Attributes:
        images: most pictures that wait; more are refused at once.
        wait_s: if the queue would take longer, more are refused at once.
        memory_bytes: of the weights of loaded models; those used longest ago make room.
        timeout_s: longest wait for an answer.
    """

    images: int = 256
    wait_s: float = math.inf
    memory_bytes: int = 4 * 2**30
    timeout_s: float = 30.0
