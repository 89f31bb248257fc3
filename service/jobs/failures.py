"""Why a shard was not computed, whose fault that is, and how it is said."""

import signal
import traceback
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from pebble import ProcessExpired

FRAMES = 3
"""Lines of the traceback of an error that is not the project's own."""

_PACKAGES = ("attacks", "common", "evaluation", "models", "service")
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class ShardError(RuntimeError):
    """What a shard raised, described: not every error can be sent to another process."""


class NodeLostError(RuntimeError):
    """The machine that computed a shard, or the connection to it, is lost."""


class Fault(Enum):
    """Whose fault a failure is."""

    SHARD = auto()
    """It raised, ran too long, or ended its process while it was computed."""
    OUTSIDE = auto()
    """Its process was killed while it was computed: by a person, or by the system for want of memory."""
    DEVICE = auto()
    """Its process ended before it touched the shard, or its machine was lost."""


@dataclass(frozen=True)
class Failure:
    """What went wrong, in a line, and whose fault it is."""

    fault: Fault
    message: str


def failure_of(error: Exception, *, started: bool) -> Failure:
    """Judge what the future of a shard raised; `started` is whether its process had begun to compute it."""
    if isinstance(error, ShardError | NodeLostError):
        return Failure(Fault.SHARD if isinstance(error, ShardError) else Fault.DEVICE, str(error))
    if isinstance(error, FutureTimeoutError):
        return Failure(Fault.SHARD, "the shard ran longer than WITHSTAND_SHARD_TIMEOUT_S allows, and was ended")
    if isinstance(error, BrokenProcessPool):  # it ended before its pool knew what it was to compute
        when = "while it computed" if started else "before it began the shard"
        return Failure(Fault.OUTSIDE if started else Fault.DEVICE, f"the device's process ended {when}")
    if not isinstance(error, ProcessExpired):
        return Failure(Fault.SHARD, describe(error))
    name = _signal(error.exitcode)
    how = f"was killed by {name}" if name else f"ended with exit code {error.exitcode}"
    if not started:
        return Failure(Fault.DEVICE, f"the device's process {how} before it began the shard")
    hint = "; was there too little memory?" if name == "SIGKILL" else ""
    outside = name in {each.name for each in _FROM_OUTSIDE}
    return Failure(Fault.OUTSIDE if outside else Fault.SHARD, f"the device's process {how} while it computed{hint}")


def describe(error: BaseException) -> str:
    """Say in a line what failed; of an error that is not the project's own, also where."""
    lines = str(error).splitlines() or [""]
    storable = lines[0].encode(errors="replace").decode().replace("\0", "?")  # a name of a file may hold anything
    said = f"{type(error).__name__}: {storable}"
    if type(error).__module__.partition(".")[0] in _PACKAGES:
        return said
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    where = "; ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}: {each.line}" for each in frames)
    return f"{said} [{where}]" if where else said


def _signal(exit_code: int) -> str | None:
    """Name the signal that ended a process; pebble's processes take SIGTERM and exit with its number."""
    if exit_code == signal.SIGTERM:
        return signal.SIGTERM.name
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return None
