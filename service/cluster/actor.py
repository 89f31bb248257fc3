"""What runs on a node of the cluster: one process for each GPU, or for each share of the CPU's cores."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import ray
import torch

from common.cores import give_way
from evaluation.plan import code_version
from service.cluster.calls import Outcome
from service.jobs.executors import set_up
from service.jobs.failures import describe
from service.logs import LogFormat

THREADS = {"calls": 1, "progress": 1}
"""Of an actor: one computes, while another one says how far it is."""

_LACK_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


class Actor:
    """Runs calls one at a time, in one process of a node.

    Args:
        on_gpu: whether it computes on a GPU, the one that Ray shows it.
        threads: torch threads; 0 leaves the choice to torch.
        log_format: how the process writes its log.
    """

    def __init__(self, *, on_gpu: bool, threads: int, log_format: LogFormat) -> None:
        self._on_gpu = on_gpu
        self._progress = (-1, 0, 1)
        if not on_gpu:  # Ray hides none from a process that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        set_up(threads, log_format)

    def code_version(self) -> str:
        """Say which code decides results here; answers as soon as the process is ready."""
        return code_version()

    @ray.method(concurrency_group="calls")
    def run(self, call_id: int, call: bytes) -> tuple[bytes, bool]:
        """Run a pickled call.

        Returns:
            Its pickled outcome, and whether it ran out of memory, so that the process should run no other.
        """
        if not self._on_gpu:
            give_way()  # to predictions, where the server is on the same machine
        self._progress = (call_id, 0, 1)
        function, args, kwargs, has_progress = pickle.loads(call)  # noqa: S301  from the server
        outcome = _outcome(function, args, kwargs | ({"on_progress": self._advance} if has_progress else {}))
        lacking = isinstance(outcome.error, _LACK_OF_MEMORY) or (
            outcome.error is not None and isinstance(outcome.error.__context__, _LACK_OF_MEMORY)
        )
        return _pickled(outcome), lacking

    @ray.method(concurrency_group="progress")
    def progress(self) -> tuple[int, int, int]:
        """Name the last call, and say how many of its images are done, of how many."""
        return self._progress

    def _advance(self, done: int, total: int) -> None:
        self._progress = (self._progress[0], done, total)


def _outcome(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    try:
        return Outcome(function(*args, **kwargs))
    except Exception as error:
        return Outcome(error=error)


def _pickled(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # what a call returns or raises may hold anything
        return pickle.dumps(Outcome(error=RuntimeError(describe(outcome.error or error))))
