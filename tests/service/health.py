"""Is /healthz answered at once, whatever else the service does?"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import httpx
import numpy as np
from starlette.types import Receive, Scope, Send

from tests.server import listening

LIMIT_S = 0.05
ROUNDS = 3


def require_health(url: str, stress: Callable[[], object]) -> None:
    """Require that 99 of 100 probes are answered within 50 ms while something runs.

    Where the machine does not allow that, since other processes and the threads of the test take its cores, they may take twice as
    long as the same probes of an idle server in this process, in the best of three rounds.

    Args:
        url: of the service.
        stress: what runs; called again for each round.
    """
    rounds: list[str] = []
    with listening(_idle) as idle, ThreadPoolExecutor(1) as threads:
        for _ in range(ROUNDS):
            ours_s, idle_s = _p99s(url, idle, threads.submit(stress))
            rounds.append(f"p99 {1e3 * ours_s:.1f} ms, of an idle server {1e3 * idle_s:.1f} ms")
            if ours_s < max(LIMIT_S, 2 * idle_s):
                print(f"health: {rounds[-1]}")
                return
    raise AssertionError(f"health was not answered at once: {'; '.join(rounds)}")


def _p99s(url: str, idle: str, running: Future[object]) -> tuple[float, float]:
    """Probe both in turn until something has run; once more, so that there is a probe."""
    seconds: dict[str, list[float]] = {url: [], idle: []}
    with httpx.Client(timeout=60) as http:
        while not running.done() or not seconds[idle]:
            for each, measured in seconds.items():
                began = time.perf_counter()
                assert http.get(f"{each}/healthz").status_code == 200
                measured.append(time.perf_counter() - began)
            time.sleep(0.005)
    running.result()
    ours_s, idle_s = (float(np.percentile(measured, 99)) for measured in seconds.values())
    return ours_s, idle_s


@dataclass
class Holds:
    """The longest time that an event loop did not come to its next turn.

    Attributes:
        busy_s: of its own work, whatever other threads and processes do.
        seconds: by the clock.
    """

    busy_s: float = 0.0
    seconds: float = 0.0


@contextmanager
def measured(loop: asyncio.AbstractEventLoop) -> Iterator[Holds]:
    """Measure the holds of a loop in another thread until the block ends."""
    holds, ended = Holds(), Event()

    async def measure() -> None:
        busy_s, now = time.thread_time(), time.perf_counter()
        while not ended.is_set():
            await asyncio.sleep(0.001)
            holds.busy_s = max(holds.busy_s, -busy_s + (busy_s := time.thread_time()))
            holds.seconds = max(holds.seconds, -now + (now := time.perf_counter()))

    measuring = asyncio.run_coroutine_threadsafe(measure(), loop)
    yield holds
    ended.set()
    measuring.result()


async def _idle(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer as /healthz does, but for everything around it."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
