"""Finished shards in a folder: what has been computed is found again, without a service or a database."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from common.folders import require_writable
from evaluation.compute.runner import ShardResult, furthest
from evaluation.plan import Plan, Shard


class ResultFolder:
    """A file a shard, at the address that `Plan.address` gives it and with its number of images.

    Several processes may share a folder: files are written aside and moved into place. What cannot be read is computed anew.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def require_writable(self) -> None:
        """Make the folder, and see that a file can be written there.

        Raises:
            FolderError: it cannot.
        """
        require_writable(self._folder, "finished work")

    def computed(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result of a shard, whatever evaluation it was computed for."""
        found = _read(self._path(plan, shard))
        return None if found is None else found.model_copy(update={"shard": shard})

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        return furthest(self._beginnings(plan, shard), shard)

    def store(self, plan: Plan, result: ShardResult) -> None:
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

    def _beginnings(self, plan: Plan, shard: Shard) -> Iterator[ShardResult]:
        for address in plan.beginnings(shard):
            for path in (self._folder / address).glob("*.json"):
                if (result := _read(path)) is not None:
                    yield result


def _read(path: Path) -> ShardResult | None:
    try:
        result = ShardResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # never written, or not by this version
        return None
    return result if len(result.rows) == result.shard.images and path.stem == str(result.shard.images) else None
