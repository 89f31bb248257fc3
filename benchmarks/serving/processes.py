"""What the kernel tells of a server and of all processes that it started: they share its session."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the start, and memory now and at its peak, each the sum over the processes."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


def usage(session: int) -> Usage:
    """Add up the living processes of a session; memory that they share counts for each.

    Args:
        session: id of the process that leads it.
    """
    cpu_s, rss_bytes, peak_rss_bytes = 0.0, 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third on, see proc(5)
            if int(fields[3]) != session:
                continue
            status = (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        cpu_s += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        facts = dict(line.split(":", 1) for line in status.splitlines())
        rss_bytes += _kib(facts.get("VmRSS")) * 1024
        peak_rss_bytes += _kib(facts.get("VmHWM")) * 1024
    return Usage(cpu_s, rss_bytes, peak_rss_bytes)


def _kib(value: str | None) -> int:
    return int(value.split()[0]) if value else 0  # a process that is ending has no memory
