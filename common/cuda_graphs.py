"""Captures computations on a GPU as CUDA graphs: one launch for all their kernels."""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import torch

WARMUPS = 3
"""Runs before a capture, in which libraries choose their kernels and allocate their workspaces."""

T = TypeVar("T")

_one_at_a_time = Lock()  # PyTorch allows one capture at a time in a process


class RecorderOnGpu:
    """Captures CUDA graphs as PyTorch requires: warmed up on the capturing stream, into tensors that stay allocated.

    All graphs share one memory pool: only one is replayed at a time, and its result is copied before the next replay. Other threads
    may use the GPU meanwhile, but not this stream.

    Args:
        stream: to capture on; by default one of its own on the current GPU.
    """

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self._stream = stream
        self._pool: Any = None

    def __call__(self, run: Callable[[], T]) -> Callable[[], T]:
        """Capture a computation."""
        self._stream = stream = self._stream or torch.cuda.Stream()
        before = torch.cuda.current_stream()
        stream.wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):  # left also where the end of a failed capture raises an error
            for _ in range(WARMUPS):
                run()
            with (
                _one_at_a_time,
                torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
            ):
                result = run()
        before.wait_stream(stream)
        self._pool = graph.pool()

        def replay() -> T:
            graph.replay()
            return result

        return replay


def cause_of(error: RuntimeError) -> BaseException:
    """Find why a capture failed: ending a failed capture raises an error of its own."""
    return error.__context__ or error
