"""What is measured while the service runs, for Prometheus: base units, names that begin with `withstand_`."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus-client: a folder in which several processes keep their numbers, so that any can sum them."""


def shared_folder() -> Path | None:
    """The folder that the processes of the service share; None if there is one process."""
    return Path(os.environ[SHARED_FOLDER]) if SHARED_FOLDER in os.environ else None


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHARD_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The numbers of one application.

    Outcomes of a picture: `ok`; `invalid`, it cannot be decoded; `rejected`, there was no room; `timeout`, its deadline passed;
    `disconnected`, its client left; `error`, the model failed.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which nothing here reads
        self._registry = CollectorRegistry()

        def histogram(
            name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _SECONDS
        ) -> Histogram:
            return Histogram(f"withstand_{name}", text, labels, registry=self._registry, buckets=buckets)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"withstand_{name}", text, labels, registry=self._registry)

        def gauge(name: str, text: str, *labels: str, mode: str = "livesum") -> Gauge:
            return Gauge(f"withstand_{name}", text, labels, registry=self._registry, multiprocess_mode=mode)  # pyright: ignore[reportArgumentType]

        self.request_seconds = histogram("request_seconds", "From header to answer.", ("method", "route", "status"))
        self.queue_seconds = histogram("queue_seconds", "A picture's wait for a thread.", ("model",))
        self.preprocess_seconds = histogram(
            "preprocess_seconds", "Decoding, resizing and cropping a picture.", ("model",)
        )
        self.forward_seconds = histogram("forward_seconds", "One batch through a model.", ("model",))
        self.batch_images = histogram("batch_images", "Pictures of a batch.", ("model",), _SIZES)
        self.predictions = counter("predictions", "Pictures by what became of them.", "model", "version", "outcome")
        self.refusals = counter("refusals", "Requests refused, by cause.", "cause")
        self.waiting_images = gauge("waiting_images", "Pictures that wait.", "device")
        self.running_images = gauge("running_images", "Pictures that are in a model.", "device")
        self.loaded_models = gauge("loaded_models", "Models in memory.", "device")
        self.model_bytes = gauge("model_bytes", "Weights and CUDA graphs in memory.", "device")
        self.device_bytes = gauge("device_bytes", "Memory that torch has taken on a GPU.", "device")
        self.shards = gauge("shards", "Parts of evaluations by status.", "status", mode="mostrecent")
        self.shard_seconds = histogram(
            "shard_seconds", "Computing one part of an evaluation.", ("model", "kind"), _SHARD_SECONDS
        )
        self.shard_failures = counter("shard_failures", "Failed runs of parts, by whose fault it was.", "fault")
        self.image_passes = counter(
            "image_passes", "Passes of images through models in evaluations.", "model", "device"
        )
        self.busy_seconds = counter("busy_seconds", "What a device has worked on evaluations.", "device")

    def page(self, shards: Mapping[str, int]) -> bytes:
        """Write all numbers in Prometheus' text format.

        Args:
            shards: parts of evaluations by status, as the database has them now.
        """
        for status, count in shards.items():
            self.shards.labels(status).set(count)
        for index in range(torch.cuda.device_count()):
            self.device_bytes.labels(f"cuda:{index}").set(torch.cuda.memory_reserved(index))
        return generate_latest(self._together())

    def outcomes(self, model: str, version: str) -> dict[str, int]:
        """Count the pictures of a version of a model by what became of them."""
        counts: dict[str, int] = {}
        for family in self._together().collect():
            for sample in family.samples:
                labels = sample.labels
                if sample.name == "withstand_predictions_total" and (labels["model"], labels["version"]) == (
                    model,
                    version,
                ):
                    counts[labels["outcome"]] = int(sample.value)
        return counts

    def _together(self) -> CollectorRegistry:
        """The numbers of all processes of the service, as far as they share a folder."""
        if shared_folder() is None:
            return self._registry
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return together
