"""Where models and data sets are found by name."""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from re import fullmatch
from typing import NamedTuple

import torch
from torch import nn

import attacks
import models
from common import canonical_json, file_sha256, text_sha256, unknown_name
from common.once import computed_once
from evaluation.compute.preflight import has_gradient, passes_differ
from evaluation.data.datasets import ImageFolder, open_dataset
from evaluation.data.pixel_cache import TEMPORARY, PixelCache
from evaluation.data.sources import ARCHIVES, DatasetError, dataset_name, require_archive
from evaluation.spec import NAME_PATTERN

ZOO_DATASETS = models.ZOO.parent / "datasets"
"""Folder of the data sets that come with the project."""


class DatasetTakenError(DatasetError):
    """There is a data set of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name: there is a data set {name!r} already; choose another name")


class Roles(NamedTuple):
    """One model as an evaluation uses it: as `run_shard` takes it.

    Attributes:
        classifier: gives the verdict, in float32.
        searched: what attacks see; on a GPU a copy whose passes are captured, see `attacks.Captured`, unless it is randomised.
        explained: shows its attention; None where it has none.
        has_gradient: whether attacks that need a gradient can be run.
        randomised: whether the card says so, or two passes differ.
    """

    classifier: models.Classifier
    searched: nn.Module
    explained: models.Classifier | None
    has_gradient: bool
    randomised: bool = False


@dataclass(frozen=True)
class Catalog:
    """Folders with checkpoints and data sets. What lies there is looked up at every call, so files can be added at any time.

    Only one change goes unnoticed while a process runs: a picture in a folder overwritten in place.

    Attributes:
        model_folders: hold checkpoints with their cards.
        dataset_folders: hold archives, and folders of class folders; their names without the ending are the data
            sets' names.
        store: one of the model folders, where models are added; None if none can be.
        notes: folder in which what was found out about data sets is stored; None holds it in memory.
        pixel_cache: where decoded pictures of data sets are stored.
        dataset_store: one of the data set folders, where data sets are added; None if none can be.
        more_datasets: paths of data sets beside those in the folders.
        isolated: run graphs from files in processes of their own, which gives no gradients.
        compiled: let torch.compile make the copies that attacks look at on a GPU, where that is faster and gives their gradients.
    """

    model_folders: tuple[Path, ...] = (models.ZOO,)
    dataset_folders: tuple[Path, ...] = (ZOO_DATASETS,)
    store: Path | None = None
    notes: Path | None = None
    pixel_cache: PixelCache = TEMPORARY
    dataset_store: Path | None = None
    more_datasets: tuple[Path, ...] = ()
    compiled: bool = False
    isolated: bool = False

    def checkpoints(self) -> dict[str, models.Checkpoint]:
        """List the checkpoints by name."""
        return models.find_checkpoints(self.model_folders)

    def checkpoint(self, name: str) -> models.Checkpoint:
        """Look up a checkpoint.

        Raises:
            UnknownNameError: there is none of that name.
        """
        found = self.checkpoints()
        if name not in found:
            raise unknown_name("model", name, found)
        return found[name]

    def checkpoint_sha256(self, name: str) -> str:
        """Hash of a checkpoint file."""
        return _sha256_of(self.checkpoint(name))

    def model_sha256(self, name: str) -> str:
        """Hash of what decides a model's answers: its file and, of its card, all that `fields` names.

        Raises:
            UnknownNameError: there is none of that name.
            CheckpointError: the card is not usable.
        """
        checkpoint = self.checkpoint(name)
        card = checkpoint.card()
        fields = {"architecture", "options", "classes", "preprocessing"}
        if card.weights:  # most files have one kind, and what was computed with them keeps its hash
            fields.add("weights")
        if card.randomised:
            fields.add("randomised")
        deciding = card.model_dump(mode="json", include=fields)
        return text_sha256(canonical_json({"card": deciding, "file": _sha256_of(checkpoint)}))

    def verified_card(self, name: str) -> models.ModelCard:
        """Read the card of a checkpoint that can be loaded; raises as `models.verify` does."""
        checkpoint = self.checkpoint(name)
        stamps = [file.stat().st_mtime_ns for file in (checkpoint.path, checkpoint.card_path)]
        return _verify(checkpoint, *stamps, isolated=self.isolated)

    def load_model(self, name: str, device: torch.device | str = "cpu") -> models.Classifier:
        """Load a checkpoint; raises as `models.load` does."""
        return models.load(name, folders=self.model_folders, device=device, isolated=self.isolated)

    def load_folded(
        self,
        name: str,
        device: torch.device | str,
        precision: models.Precision,
        columns: tuple[int, ...] | None = None,
    ) -> "Roles":
        """Load a checkpoint for an evaluation, with some of its logits or all; see `models.fold`, raises as `models.load`."""
        loaded = self.load_model(name, device)
        if columns is not None:
            loaded = loaded.restricted(columns)
        judge = models.fold(loaded)
        try:
            models.attention_layers(loaded)
            explained = loaded
        except models.NoAttentionError:
            explained = None
        side = loaded.card.preprocessing.crop
        grey = torch.full((1, 3, side, side), 0.5, device=judge.device)
        differentiable, randomised = has_gradient(judge, grey), loaded.card.randomised or passes_differ(judge, grey)
        captured = (
            judge.device.type == "cuda" and judge is not loaded and not randomised
        )  # a file's own graph is left alone
        if precision != "bfloat16" and not captured:
            return Roles(judge, judge, explained, differentiable, randomised)
        copy = models.fold(loaded, precision)
        if captured:
            copy = attacks.Captured(copy, compiler=attacks.compiled if self.compiled else None)
        return Roles(judge, copy, explained, differentiable, randomised)

    def free_name(self, name: str) -> str:
        """Return a name that a model can be added under.

        Raises:
            CheckpointError: it is no name.
            NameTakenError: there is a model of that name.
        """
        if not fullmatch(NAME_PATTERN, name) or name.endswith(models.SUFFIXES):
            raise models.CheckpointError(
                f"name: {name!r} is no name of a model; up to 128 letters, digits, dots, dashes and underscores are allowed, the "
                f"first a letter or digit, not ending in {', '.join(models.SUFFIXES)}"
            )
        if name in self.checkpoints():
            raise models.NameTakenError(f"name: there is a model {name!r} already; choose another name")
        return name

    def model_file(self, path: str) -> Path:
        """Find a file in the model folders, by its path below one of them.

        Raises:
            CheckpointError: it is not there, or the path leads out of the folder.
        """
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\0" in path:
            raise models.CheckpointError(f"path: {path!r} leads out of the model folders; give one below them")
        try:
            for folder in self.model_folders:
                file = (folder / parts).resolve()
                if not file.is_relative_to(folder.resolve()):
                    raise models.CheckpointError(f"path: {path!r} is a link out of the model folders")
                if file.is_file():
                    return file
        except (OSError, RuntimeError) as error:  # too long, or links in a circle
            raise models.CheckpointError(f"path: {path[:100]!r} cannot be followed: {type(error).__name__}") from error
        raise models.CheckpointError(f"path: there is no file {path!r} in the model folders")

    def add_model(self, file: Path, name: str, given: models.Given, *, accept_likely: bool = False) -> models.Added:
        """Add a checkpoint to the store; raises as `free_name` and `models.add` do."""
        if self.store is None:
            raise models.CheckpointError("models cannot be added here: there is no folder for them")
        return models.add(
            file, self.store, self.free_name(name), given, accept_likely=accept_likely, isolated=self.isolated
        )

    def remove_model(self, name: str) -> None:
        """Remove a model that was added, with its card.

        Raises:
            UnknownNameError: there is none of that name.
            CheckpointError: it was not added, but lies in another folder; or there are two of that name.
        """
        self.require_added(name)
        checkpoint = self.checkpoint(name)
        checkpoint.card_path.unlink()  # first: a file without its card is no model
        checkpoint.path.unlink()

    def require_added(self, name: str) -> None:
        """Refuse a model that was not added; raises as `remove_model` does."""
        checkpoint = self.checkpoint(name)
        checkpoint.require_only()
        folder = checkpoint.path.parent
        if self.store is None or folder.resolve() != self.store.resolve():
            raise models.CheckpointError(
                f"{name!r} cannot be removed: it was not added but lies in {folder}; only added models can be removed"
            )

    def datasets(self) -> dict[str, Path]:
        """List the paths of the data sets by name; where two have the same name, that of the first."""
        return {name: paths[0] for name, paths in self._datasets().items()}

    def _datasets(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        there = (path for folder in self.dataset_folders for path in sorted(folder.glob("*")))
        for path in (*there, *self.more_datasets):
            if path.name.startswith(".") or not (path.name.endswith(ARCHIVES) or path.is_dir()):
                continue
            same = found.setdefault(dataset_name(path), [])
            if path.resolve() not in [each.resolve() for each in same]:
                same.append(path)
        return found

    def with_dataset(self, asked: str) -> tuple["Catalog", str]:
        """Make sure that a data set is there that is asked for by name or by path.

        Args:
            asked: a name, or the path of a folder or an archive: what is no known name, and has a separator, the ending of an
                archive, or something lying there.

        Returns:
            A catalog that has it, and its name.

        Raises:
            DatasetError: there is nothing at the path, it is neither folder nor archive, or its name is none of a data set.
        """
        path = Path(asked)
        if asked in self.datasets() or not ("/" in asked or asked.endswith(ARCHIVES) or path.exists()):
            return self, asked
        if not path.is_dir():
            require_archive(path)
        name = _require_name(dataset_name(path.resolve()))
        return replace(self, more_datasets=(*self.more_datasets, path.resolve())), name

    def add_dataset(self, file: Path, name: str) -> ImageFolder:
        """Add an archive to the store: it is there whole, or not at all.

        Args:
            file: the archive, in the file system of the store; it may be renamed.
            name: of the data set.

        Raises:
            DatasetError: it is no data set, or that is no name.
            DatasetTakenError: there is a data set of that name.
        """
        if self.dataset_store is None:
            raise DatasetError("data sets cannot be added here: there is no folder for them")
        ending = file.name.removeprefix(dataset_name(file))
        named = file.rename(file.with_name(_require_name(name) + ending))
        if name in self.datasets():
            raise DatasetTakenError(name)
        open_dataset(named)
        self.dataset_store.mkdir(parents=True, exist_ok=True)
        target = self.dataset_store / named.name
        try:
            target.hardlink_to(named)
        except FileExistsError as error:
            raise DatasetTakenError(name) from error
        try:
            return self.open_dataset(name)
        except DatasetError as error:  # another was added at the same time, with another ending
            target.unlink()
            raise DatasetTakenError(name) from error

    def open_dataset(self, name: str) -> ImageFolder:
        """Open a data set.

        Raises:
            UnknownNameError: there is none of that name.
            DatasetError: it cannot be read, or there are two of that name.
        """
        found = self._datasets()
        if name not in found:
            raise unknown_name("data set", name, found)
        path, *twins = found[name]
        if twins:
            raise DatasetError(f"two data sets are named {name!r}: {path} and {twins[0]}; rename or remove one of them")
        return _open(path, _stamp(path), self.notes, self.pixel_cache)


def _require_name(name: str) -> str:
    if not fullmatch(NAME_PATTERN, name) or name.endswith(ARCHIVES):
        raise DatasetError(
            f"name: {name!r} is no name of a data set; up to 128 letters, digits, dots, dashes and underscores are allowed, the "
            f"first a letter or digit, not ending in {', '.join(ARCHIVES)}"
        )
    return name


def _stamp(path: Path) -> int:
    """Time of the latest change: of a file's content, or of what lies in a folder and the folders below it."""
    folders = [folder for folder, _, _ in os.walk(path)]
    return max(os.stat(each).st_mtime_ns for each in (path, *folders))  # noqa: PTH116  there may be thousands


@computed_once(16)
def _open(path: Path, _modified_ns: int, notes: Path | None, pixel_cache: PixelCache) -> ImageFolder:
    return open_dataset(path, notes=notes, pixel_cache=pixel_cache)


@computed_once(256)
def _verify(
    checkpoint: models.Checkpoint, _modified_ns: int, _card_modified_ns: int, *, isolated: bool
) -> models.ModelCard:
    return models.verify(checkpoint, isolated=isolated)


def _sha256_of(checkpoint: models.Checkpoint) -> str:
    return _file_sha256(checkpoint.path, checkpoint.path.stat().st_mtime_ns)


@computed_once(256)
def _file_sha256(path: Path, _modified_ns: int) -> str:
    return file_sha256(path)
