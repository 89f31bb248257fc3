"""Where shards are computed: one spawned process for each device. Executors own nothing durable."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import lru_cache
from threading import Thread
from typing import ParamSpec, TypeVar

import torch
from pebble import ProcessPool

import models
from evaluation import Catalog, EvaluationSpec, Shard, ShardResult, best_device, run_shard

MODELS_KEPT = 2
"""Classifiers that a device process keeps loaded."""

P = ParamSpec("P")
T = TypeVar("T")


def available_devices() -> list[str]:
    """Name every GPU, or the CPU where there is none."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


class DeviceExecutor(Executor):
    """Runs calls one at a time in a process of its own; cancelling a running call, or its time-out, kills that process.

    Args:
        device: such as "cpu" or "cuda:1"; the process sees no other GPU.
        timeout_s: longest run of a call, seconds.
    """

    def __init__(self, device: str, *, timeout_s: float) -> None:
        self.device = device
        self._timeout_s = timeout_s
        self._pool = _new_pool(device)
        self._ended = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; both it and its arguments must be picklable.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if not self._ended and not self._pool.active:  # its process died while it had nothing to do
            self._pool.stop()
            self._pool.join()
            self._pool = _new_pool(self.device)
        return self._pool.schedule(fn, args=args, kwargs=kwargs, timeout=self._timeout_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process, after its calls are done or at once."""
        self._ended = True
        if cancel_futures:
            self._pool.stop()
        else:
            self._pool.close()
        if wait:
            self._pool.join()


def _new_pool(device: str) -> ProcessPool:
    context = multiprocessing.get_context("spawn")
    return ProcessPool(max_workers=1, initializer=_enter_process, initargs=(device,), context=context)


def _enter_process(device: str) -> None:
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def compute(catalog: Catalog, spec: EvaluationSpec, shard: Shard, sha256: str) -> ShardResult:
    """Run a shard on this process's device.

    Args:
        catalog: where models and data are.
        spec: the evaluation.
        shard: the part of it to run.
        sha256: of the checkpoint; a file that has changed since the evaluation was submitted is refused.

    Raises:
        CheckpointError: the checkpoint is not the one that was asked about.
    """
    if (actual := catalog.checkpoint_sha256(shard.model)) != sha256:
        raise models.CheckpointError(
            f"{shard.model} has changed since the evaluation was submitted: sha256 {actual}, then {sha256}"
        )
    classifier = _classifier(catalog, shard.model, sha256)
    return run_shard(spec, shard, classifier=classifier, dataset=catalog.open_dataset(spec.dataset))


@lru_cache(maxsize=MODELS_KEPT)
def _classifier(catalog: Catalog, model: str, _sha256: str) -> models.Classifier:
    return catalog.load_model(model, best_device())


def describe(error: BaseException) -> str:
    """One line on why a call failed."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
