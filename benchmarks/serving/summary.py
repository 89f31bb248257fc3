"""Samples of several rounds become numbers and columns of tables."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.serving.load import Sample, percentile

MIB = 2**20

PACE_HEADER = ("good answers/s", "p50 ms", "p95 ms", "p99 ms", "failures")
COST_HEADER = ("server CPU ms", "generator CPU ms", "memory MiB")


def pace_columns(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Rate, latencies and what failed."""
    latencies = [milliseconds(percentile_of(samples, percent)) for percent in (50, 95, 99)]
    return (f"{rate_of(samples):.1f}", *latencies, describe(each.failures for each in samples))


def milliseconds(value: float) -> str:
    """Write a latency."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def cost_columns(samples: Sequence[Sample]) -> tuple[str, ...]:
    """CPU of both sides for each good answer, and the server's memory."""
    answered = [each for each in samples if each.rate]
    server = [1000 * server_cpu_s(each) / each.seconds / each.rate for each in answered]
    client = [1000 * each.client_cpu_s / each.seconds / each.rate for each in answered]
    peak = statistics.median(each.after.peak_rss_bytes / MIB for each in samples if each.after)
    return (f"{median(server):.1f}", f"{median(client):.2f}", f"{peak:.0f}")


def server_cpu_s(sample: Sample) -> float:
    """CPU seconds of the server within the measured seconds."""
    return sample.after.cpu_s - sample.before.cpu_s if sample.before and sample.after else math.nan


def rate_of(samples: Sequence[Sample]) -> float:
    """Good answers a second, the median."""
    return statistics.median(each.rate for each in samples)


def percentile_of(samples: Sequence[Sample], percent: float) -> float:
    """A percentile of latencies in milliseconds, the median over the rounds that had any."""
    return median([percentile(each.latencies_ms, percent) for each in samples if each.latencies_ms])


def median(values: Sequence[float]) -> float:
    """The median; NaN of none."""
    return statistics.median(values) if values else math.nan


def describe(counts: Iterable[dict[str, int]]) -> str:
    """Write how often every status came, over all rounds."""
    total = sum((Counter(each) for each in counts), Counter[str]())
    return ", ".join(f"{status}: {count}" for status, count in sorted(total.items())) or "0"


def slope(values: Sequence[float]) -> float:
    """Rise from one value to the next, by least squares; 0 of a single one."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope
