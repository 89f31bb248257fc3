"""Device processes are forked from one that has imported what they need: a new one is there at once, and they share its memory."""

import multiprocessing
import sqlite3
import sys
from contextlib import closing, suppress
from multiprocessing import forkserver
from pathlib import Path

FORKS = sys.platform == "linux"
"""Elsewhere a process that is forked may break the system's libraries."""

CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")
"""How device processes are started."""

_PRELOADED = ("service.jobs.executors", "torchvision")

_UNFINISHED = "SELECT 1 FROM counts WHERE status IN ('pending', 'running') AND shards > 0"


def start_fork_server() -> None:
    """Let the process from which others are forked import what they need, unless it is there; returns at once."""
    if FORKS:
        CONTEXT.set_forkserver_preload([*_PRELOADED])
        forkserver.ensure_running()


def has_unfinished(database: Path) -> bool:
    """Whether there are shards to run in an SQLite file, told without importing what opens it properly."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.1)) as db:
        return db.execute(_UNFINISHED).fetchone() is not None
    return False
