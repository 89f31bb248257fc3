"""What waits, runs and is loaded on a device, told to Prometheus and to the other processes of the service."""

from collections.abc import Collection

from service.metrics import Metrics
from service.serving.queue import ModelQueue
from service.serving.shared_counts import SharedCounts


class Gauges:
    """Counts the queues of one device.

    Args:
        device: such as "cuda:1".
        metrics: for Prometheus.
        counts: for the other processes.
    """

    def __init__(self, device: str, metrics: Metrics, counts: SharedCounts) -> None:
        self._counts = counts
        self._small, self._large = f"small for {device}", f"large for {device}"
        self._waiting, self._running = metrics.waiting_images.labels(device), metrics.running_images.labels(device)
        self._loaded, self._bytes = metrics.loaded_models.labels(device), metrics.model_bytes.labels(device)

    def count_images(self, queues: Collection[ModelQueue]) -> None:
        """Count the pictures that wait, and those that run."""
        small, large = sum(queue.waiting_small for queue in queues), sum(queue.waiting_large for queue in queues)
        self._counts.set(self._small, small)
        self._counts.set(self._large, large)
        self._waiting.set(small + large)
        self._running.set(sum(queue.running for queue in queues))

    def count_models(self, queues: Collection[ModelQueue]) -> None:
        """Count the models in memory."""
        self._loaded.set(sum(queue.usable for queue in queues))
        self._bytes.set(sum(queue.size_bytes for queue in queues))

    def waiting_elsewhere(self, *, large: bool) -> int:
        """How many pictures wait for the device in other processes."""
        return self._counts.elsewhere(self._large if large else self._small)
