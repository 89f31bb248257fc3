"""How long predictions take while something else is going on."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from tests.server import DEADLINE_S, Server
from tests.service.pictures import DISC, URL, labels


def p99_s(server: Server, count: int) -> float:
    """Time within which 99 of 100 predictions are answered, of two clients that ask one after the other."""
    seconds: list[float] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=DEADLINE_S) as http:
            for _ in range(count // 2):
                began = time.perf_counter()
                assert labels(http.post(URL, content=DISC)) == ["disc"]
                seconds.append(time.perf_counter() - began)

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(ask) for _ in range(2)]:
            each.result()
    return float(np.percentile(seconds, 99))
