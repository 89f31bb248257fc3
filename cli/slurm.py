"""An evaluation as an array of Slurm jobs: each runs some of its shards into the folder of results that all share."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from submitit import AutoExecutor, Job
from submitit.core.utils import FailedJobError
from submitit.helpers import DelayedSubmission

from evaluation import best_device
from evaluation.local import Shards

POLL_S = 2.0
"""How often finished shards are looked for, seconds."""


class JobsFailedError(RuntimeError):
    """Jobs ended without having done their part; the message says why the first one did, and where all their logs are."""


@dataclass(frozen=True)
class Part:
    """What one job does. If it is preempted or runs out of time, it is queued again and goes on from the finished shards.

    Attributes:
        shards: of the evaluation; models, data and results lie on a file system that all nodes have.
        device: where to compute; "" is the GPU of the node if there is one.
    """

    shards: Shards
    device: str

    def __call__(self) -> None:
        """Run, in the job."""
        self.shards.run(self.device or best_device())

    def checkpoint(self) -> DelayedSubmission:
        """Ask submitit to queue the same again."""
        return DelayedSubmission(self)


def cut(whole: Shards, count: int) -> Iterator[Shards]:
    """Cut what is not finished into at most so many runs of neighbouring shards, of about the same number of passes each."""
    finished = frozenset(each.shard for each in whole.tallies())
    left = [each for each in whole.shards if each not in finished]
    passes = [whole.plan.passes_of(each) for each in left]
    middles = [2 * upto - own for own, upto in zip(passes, accumulate(passes), strict=True)]
    for number in range(count):
        mine = [
            each for each, middle in zip(left, middles, strict=True) if middle * count // (2 * sum(passes)) == number
        ]
        if mine:
            yield whole.of(mine)


def parse_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Read parameters from KEY=VALUE; whole numbers become int.

    Raises:
        ValueError: there is no "=".
    """
    pairs = [each.partition("=") for each in given]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise ValueError(f"--slurm-set takes KEY=VALUE, such as partition=gpu; got {wrong[0]!r}")
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


def submit(parts: Sequence[Part], folder: Path, parameters: dict[str, Any], cluster: str = "slurm") -> list[Job[None]]:
    """Queue an array of jobs.

    Args:
        parts: what each is to do.
        folder: for their logs, on a file system that all nodes have.
        parameters: of Slurm, by submitit's names.
        cluster: where; submitit's "local" runs them as processes here.

    Raises:
        ValueError: there is no Slurm here, or a parameter is unknown.
    """
    if cluster == "slurm" and not (shutil.which("srun") and shutil.which("sbatch")):
        raise ValueError("--slurm needs Slurm's srun and sbatch, which are not here: run the command on a login node")
    executor = AutoExecutor(folder / "%j", cluster=cluster)
    executor.update_parameters(name="withstand", **{f"slurm_{name}": value for name, value in parameters.items()})
    if not parts:
        return []
    with executor.batch():
        return [executor.submit(each) for each in parts]


def wait(jobs: Sequence[Job[None]], whole: Shards, on_progress: Callable[[int, int], None]) -> None:
    """Wait until all jobs have ended, and tell how many images are done.

    Raises:
        JobsFailedError: some ended without having done their part.
    """
    total = sum(each.images for each in whole.shards)
    while True:
        ended = all(job.done() for job in jobs)
        on_progress(sum(each.images for each in whole.tallies()), total)
        if ended:
            break
        time.sleep(POLL_S)
    failures = {job.job_id: error for job in jobs if (error := job.exception())}
    if failures:
        raise JobsFailedError(
            f"{len(failures)} of {len(jobs)} jobs failed ({', '.join(failures)}), the first with: "
            f"{_reason(next(iter(failures.values())))}; logs are in {jobs[0].paths.folder.parent}; what is finished stays, "
            "and the same command goes on from there"
        )


def _reason(error: Exception) -> str:
    """The last line of the job's traceback, or what submitit says if the job left none."""
    first, rest, *_ = str(error).split("-" * 22 + "\n")
    return rest.strip().splitlines()[-1] if isinstance(error, FailedJobError) else " ".join(first.splitlines()[:2])
