"""What is asked of the servers: races, overload, broken pictures, a long day."""

import json
import statistics
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.pgd import table
from benchmarks.serving.bench import BROKEN_SHARE, Bench, alternate, run_module
from benchmarks.serving.ceiling import ALONE, AS_LOADED, BATCHED, BFLOAT16, CORES, FOLDED, Rates
from benchmarks.serving.contenders import FLOORS, WITHOUT_A_MODEL, Contender, Running, Subject, serving
from benchmarks.serving.load import BROKEN, GOOD, OK, Sample, percentile
from benchmarks.serving.lock import PY_SPY, lock_table, probe
from benchmarks.serving.summary import (
    COST_HEADER,
    MIB,
    PACE_HEADER,
    cost_columns,
    describe,
    pace_columns,
    percentile_of,
    rate_of,
    slope,
)

REFERENCE, CROWD = 32, 256
"""Connections of a server that is busy, and of one that is overrun."""

BROKEN_CONNECTIONS = 16
SOAK_SHARE, MINUTE_S = 0.7, 60.0


@dataclass
class Results:
    """Samples of every server and pace, one a round, and the ceiling of every round."""

    closed: dict[tuple[str, int], list[Sample]] = field(default_factory=dict[tuple[str, int], list[Sample]])
    open: dict[tuple[str, float], list[tuple[float, Sample]]] = field(
        default_factory=dict[tuple[str, float], list[tuple[float, Sample]]]
    )
    ceilings: list[Rates] = field(default_factory=list[Rates])

    def ceiling(self, form: str, how: str) -> float:
        """Images a second, the median."""
        return statistics.median(each[form][how] for each in self.ceilings)


def race(bench: Bench, subject: Subject, connections: Sequence[int], fractions: Sequence[float]) -> Results:
    """Measure closed and open loops of every server, and the ceiling in every round."""
    results = Results()

    def visit(running: Running) -> None:
        name = running.contender.name
        best = 0.0
        for count in connections:
            sample = bench.load(running, connections=count)
            results.closed.setdefault((name, count), []).append(sample)
            best = max(best, sample.rate)
        for fraction in fractions if best else ():
            sample = bench.load(running, rate=fraction * best)
            results.open.setdefault((name, fraction), []).append((fraction * best, sample))

    one_round = replace(bench, rounds=1)
    arguments = ("--checkpoint", str(subject.checkpoint), "--pictures", str(bench.folder / "pictures"))
    for _ in range(bench.rounds):
        answer = run_module(
            "benchmarks.serving.ceiling", *arguments, "--seconds", str(bench.seconds / 2), on=bench.on[0]
        )
        results.ceilings.append(json.loads(answer))
        alternate(one_round, subject, visit)
    return results


def floors(bench: Bench, subject: Subject, connections: Sequence[int]) -> str:
    """Measure HTTP without a model; a Markdown table."""
    samples: dict[tuple[str, int], list[Sample]] = {}

    def visit(running: Running) -> None:
        for count in connections:
            sample = bench.load(running, connections=count)
            samples.setdefault((running.contender.name, count), []).append(sample)

    alternate(replace(bench, contenders=FLOORS), subject, visit)
    rows = [(name, str(count), *pace_columns(each), *cost_columns(each)) for (name, count), each in samples.items()]
    return table(("closed loop", "connections", *PACE_HEADER, *COST_HEADER), rows)


def without_a_model(bench: Bench, subject: Subject, connections: Sequence[int]) -> Generator[str]:
    """Measure everything but the model, beside decoding and resizing on all cores, and the lock; Markdown tables."""
    results = race(replace(bench, contenders=(WITHOUT_A_MODEL,)), subject, connections, ())
    yield ceiling_table(results)
    yield closed_table(results)
    if PY_SPY is None:
        yield "py-spy is not installed: the interpreter lock is left out.\n"
        return
    with serving(WITHOUT_A_MODEL, subject, bench.folder, on=bench.on[0]) as running:
        bench.load(running, connections=REFERENCE)
        yield lock_table(*probe(bench, running, REFERENCE))


def ceiling_table(results: Results) -> str:
    """The ceiling of every form of the model."""
    rows = [
        (form, f"{results.ceiling(form, ALONE):.1f}", f"{results.ceiling(form, BATCHED):.1f}")
        for form in (AS_LOADED, FOLDED, BFLOAT16)
    ]
    return table(("ceiling, images/s", ALONE, f"{BATCHED}, {CORES} streams"), rows)


def closed_table(results: Results) -> str:
    """A row for every server and number of connections."""
    rows: list[tuple[str, ...]] = []
    for (name, connections), samples in results.closed.items():
        share = rate_of(samples) / results.ceiling(FOLDED, ALONE if connections == 1 else BATCHED)
        rows.append((name, str(connections), *pace_columns(samples), f"{share:.2f}", *cost_columns(samples)))
    header = ("closed loop", "connections", *PACE_HEADER, "of the ceiling", *COST_HEADER)
    return table(header, rows)


def open_table(results: Results) -> str:
    """A row for every server and share of its best rate."""
    rows: list[tuple[str, ...]] = []
    for (name, fraction), rated in results.open.items():
        samples = [sample for _, sample in rated]
        offered = statistics.median(rate for rate, _ in rated)
        rows.append((name, f"{fraction:g}x", f"{offered:.1f}", *pace_columns(samples), *cost_columns(samples)))
    header = ("open loop", "of its best", "sent/s", *PACE_HEADER, *COST_HEADER)
    return table(header, rows)


def overload(bench: Bench, subject: Subject) -> str:
    """Overrun every server, beside the same server when it is busy; a Markdown table."""
    samples: dict[str, list[tuple[Sample, Sample]]] = {}

    def visit(running: Running) -> None:
        busy, overrun = (bench.load(running, connections=count) for count in (REFERENCE, CROWD))
        samples.setdefault(running.contender.name, []).append((busy, overrun))

    alternate(bench, subject, visit)
    rows: list[tuple[str, ...]] = []
    for name, pairs in samples.items():
        busy, overrun = [first for first, _ in pairs], [second for _, second in pairs]
        memory = [
            f"{statistics.median(usage.rss_bytes / MIB for usage in usages if usage):.0f}"
            for usages in ([each.before for each in overrun], [each.after for each in overrun])
        ]
        rows.append(
            (
                name,
                f"{rate_of(busy):.1f}",
                f"{rate_of(overrun):.1f}",
                f"{rate_of(overrun) / max(rate_of(busy), rate_of(overrun)):.2f}",
                f"{percentile_of(overrun, 50):.0f}",
                f"{percentile_of(overrun, 99):.0f}",
                describe(each.failures for each in overrun),
                " to ".join(memory),
            )
        )
    header = (
        f"{CROWD} connections",
        f"good answers/s at {REFERENCE}",
        f"at {CROWD}",
        "of the best",
        "accepted p50 ms",
        "accepted p99 ms",
        "refused or failed",
        "memory MiB, beginning to end",
    )
    return table(header, rows)


def broken(bench: Bench, subject: Subject) -> str:
    """Send broken pictures among good ones; a Markdown table."""
    samples: dict[str, list[Sample]] = {}

    def visit(running: Running) -> None:
        sample = bench.load(running, mixed=True, connections=BROKEN_CONNECTIONS)
        samples.setdefault(running.contender.name, []).append(sample)

    alternate(bench, subject, visit)
    rows: list[tuple[str, ...]] = []
    for name, rounds in samples.items():
        good = sum((Counter(each.statuses.get(GOOD, {})) for each in rounds), Counter[str]())
        bad = describe(each.statuses.get(BROKEN, {}) for each in rounds)
        rows.append((name, str(good.total()), str(good[OK]), f"{good[OK] / max(1, good.total()):.2f}", bad))
    header = (
        f"one picture of {BROKEN_SHARE} broken, {BROKEN_CONNECTIONS} connections",
        "good sent",
        "answered 200",
        "share",
        "answers to broken ones",
    )
    return table(header, rows)


def soak(bench: Bench, subject: Subject, contender: Contender, minutes: int) -> str:
    """Load a server steadily below its capacity; a Markdown table of its minutes, and the trends."""
    with serving(contender, subject, bench.folder, on=bench.on[0]) as running:
        rate = SOAK_SHARE * bench.load(running, connections=REFERENCE).rate
        samples = [bench.load(running, rate=rate, seconds=MINUTE_S) for _ in range(minutes)]
    memory = [each.after.rss_bytes / MIB for each in samples if each.after]
    latencies = [percentile(each.latencies_ms, 99) for each in samples]
    rows = [
        (
            str(minute),
            f"{each.rate:.1f}",
            f"{percentile(each.latencies_ms, 50):.0f}",
            f"{p99:.0f}",
            f"{rss:.0f}",
            describe([each.failures]),
        )
        for minute, (each, p99, rss) in enumerate(zip(samples, latencies, memory, strict=True), 1)
    ]
    header = ("minute", "good answers/s", "p50 ms", "p99 ms", "memory MiB", "failures")
    return (
        f"{contender.name}, {rate:.1f} requests/s:\n\n{table(header, rows)}\n"
        f"Trend: {slope(memory):+.2f} MiB and {slope(latencies):+.2f} ms of p99 a minute.\n"
    )
