"""Finished shards in a folder: what has been computed is found again, without a service or a database."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from common.folders import require_writable
from evaluation.compute.runner import ShardResult, furthest
from evaluation.plan import Plan, Shard
from evaluation.results.stopping import Tally


class ResultFolder:
    """One file per shard, in a folder named by `Plan.address`, with its number of images as its name.

    Several processes may share a folder: files are written aside and moved into place. What cannot
    be read counts as missing.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._tallies: dict[Path, Tally] = {}

    def require_writable(self) -> None:
        """Make the folder, and see that a file can be written there.

        Raises:
            FolderError: it cannot.
        """
        require_writable(self._folder, "finished work")

    def computed(self, plan: Plan, shards: Iterable[Shard]) -> list[ShardResult]:
        """Read the results of shards, whatever evaluation they were computed for; those that are missing are left out."""
        found = ((shard, _read(self._path(plan, shard))) for shard in shards)
        return [result.model_copy(update={"shard": shard}) for shard, result in found if result is not None]

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        return furthest(self._resumable(plan, shard), shard)

    def tallies(self, plan: Plan, shard: Shard) -> list[Tally]:
        """Count the finished shards of a shard's model and condition; each file is read once."""
        for each in plan.shards_of(shard.model, shard.condition):
            if self._path(plan, each) not in self._tallies:
                for result in self.computed(plan, [each]):
                    self._tallies[self._path(plan, each)] = Tally.of(plan, result)
        paths = (self._path(plan, each) for each in plan.shards_of(shard.model, shard.condition))
        return [self._tallies[path] for path in paths if path in self._tallies]

    def save(self, plan: Plan, result: ShardResult) -> None:
        """Write a result.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._path(plan, result.shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{uuid4().hex}")
        aside.write_text(result.model_dump_json())
        aside.replace(path)

    def _path(self, plan: Plan, shard: Shard) -> Path:
        return self._folder / plan.address(shard) / f"{shard.images}.json"

    def _resumable(self, plan: Plan, shard: Shard) -> Iterator[ShardResult]:
        for address in plan.resumable_addresses(shard):
            for path in (self._folder / address).glob("*.json"):
                if (result := _read(path)) is not None:
                    yield result


def _read(path: Path) -> ShardResult | None:
    try:
        result = ShardResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # never written, or not by this version
        return None
    return result if len(result.rows) == result.shard.images and path.stem == str(result.shard.images) else None
