"""The cores available to this process, and who has them first."""

import os
import threading

NICENESS = 10
"""Of threads that wait: a tenth of a core where all are busy, else as much as there is."""


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_way() -> None:
    """Lower the priority of this thread, and on Linux of no other: it takes what the others leave."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
