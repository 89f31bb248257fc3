"""Finished shards in a folder: what has been computed is found again, without a service or a database."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from common.folders import require_writable
from evaluation.compute.runner import ShardResult, furthest
from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally


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

    def computed(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result of a shard, whatever evaluation it was computed for."""
        result = _read(self._path(plan, shard))
        return None if result is None else result.model_copy(update={"shard": shard})

    def tallies(self, plan: Plan, shards: Iterable[Shard]) -> list[Tally]:
        """Count the shards that are computed, whatever evaluation they were computed for; each file is read once."""
        found = ((shard, self._tally(plan, shard)) for shard in shards)
        return [tally.model_copy(update={"shard": shard}) for shard, tally in found if tally is not None]

    def _tally(self, plan: Plan, shard: Shard) -> Tally | None:
        path = self._path(plan, shard)
        if path not in self._tallies and (result := self.computed(plan, shard)) is not None:
            self._tallies[path] = Tally.of(plan, result)
        return self._tallies.get(path)

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        return furthest(self._resumable(plan, shard), shard)

    def finished(self, plan: Plan, shard: Shard) -> list[Tally]:
        """Count the finished shards of a shard's model and condition: here all that are computed."""
        return self.tallies(plan, plan.shards_of(shard.model, shard.condition))

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
