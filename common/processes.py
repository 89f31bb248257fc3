"""Processes that were started by another one of ours."""

import multiprocessing
import os
from threading import Thread


def end_with_parent() -> None:
    """End this process as soon as the one that spawned it has ended, however it did."""
    Thread(target=_wait_for_parent, name="parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
