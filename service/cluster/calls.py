"""What the server, the process that talks to Ray and the nodes send each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import ShardResult
from evaluation.compute.runner import OnProgress
from evaluation.results.protocol import Work
from service.cluster.files import Files
from service.jobs.executors import compute


@dataclass(frozen=True)
class Submit:
    """Run a call, as `packed_call` packs it, on a device."""

    id: int
    device: str
    call: bytes


@dataclass(frozen=True)
class Cancel:
    """End a call."""

    id: int


@dataclass(frozen=True)
class Demand:
    """So many GPUs would have something to do; the cluster is to have as many."""

    gpus: int


@dataclass(frozen=True)
class Devices:
    """These are all the devices there are now."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Advanced:
    """So many images of a call are done, of how many."""

    id: int
    done: int
    total: int


@dataclass(frozen=True)
class Returned:
    """A call has ended with a pickled `Outcome`."""

    id: int
    outcome: bytes


@dataclass(frozen=True)
class Failed:
    """A call was ended by something that is no error of its own."""

    id: int
    error: Exception


Request = Submit | Cancel | Demand
Answer = Devices | Advanced | Returned | Failed


@dataclass(frozen=True)
class Outcome:
    """What came of a call: what it returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


def compute_on_node(
    files: Files,
    cache: Path,
    work: Work,
    *,
    side_by_side: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> ShardResult:
    """Run a shard with files that are pulled if need be; raises as `compute` and `StoredFiles.on_node`.

    Args:
        files: of the evaluation.
        cache: folder of the node; a beginning ~ is the home of whoever runs Ray there.
        work: see `compute`.
        side_by_side: the same.
        on_progress: the same.
    """
    catalog = files.on_node(cache.expanduser())
    return compute(catalog, work, side_by_side=side_by_side, on_progress=on_progress)
