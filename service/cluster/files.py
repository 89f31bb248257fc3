"""The files that an evaluation needs, on the server and on the nodes that compute it."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from common import canonical_json
from common.names import printable
from evaluation import Catalog, Plan
from evaluation.data.pixel_cache import PixelCache
from evaluation.data.sources import DatasetError, require_inside
from service.cluster.content import ContentError, ContentStore, locked


@dataclass(frozen=True)
class SharedFolders:
    """Files that nodes read where the server has them: the machines share its folders, under the same paths."""

    catalog: Catalog

    def on_node(self, cache: Path) -> Catalog:
        """The catalog to compute with on a node; what it finds out and decodes is stored in its cache folder."""
        pixels = PixelCache(cache / "pixels", self.catalog.pixel_cache.limit_bytes)
        return replace(self.catalog, notes=cache / "notes", pixel_cache=pixels)


@dataclass(frozen=True)
class StoredFiles:
    """Files that nodes pull from a store.

    Attributes:
        store: where they are.
        manifest: SHA-256 of a list of them: their paths in a folder of models and one of data sets, with their SHA-256.
        catalog: of the server.
    """

    store: ContentStore
    manifest: str
    catalog: Catalog

    def on_node(self, cache: Path) -> Catalog:
        """Pull what is not in the cache folder; raises ContentError as `ContentStore.pull`, or for a path that leads elsewhere."""
        tree = cache / "trees" / self.manifest
        listed = self.store.pull(self.manifest, cache)
        with locked(cache, f"{self.manifest}.tree"):
            if not tree.exists():
                self._lay_out(json.loads(listed.read_bytes()), tree, cache)
        there = replace(self.catalog, model_folders=(tree / "models",), dataset_folders=(tree / "datasets",))
        return SharedFolders(there).on_node(cache)

    def _lay_out(self, files: dict[str, str], tree: Path, cache: Path) -> None:
        part = tree.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        for name, sha256 in files.items():
            try:
                require_inside("the list of an evaluation's files", name)
            except DatasetError as error:
                raise ContentError(str(error)) from error
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).hardlink_to(self.store.pull(sha256, cache))
        part.replace(tree)


Files = SharedFolders | StoredFiles


def share(plan: Plan, catalog: Catalog, store: ContentStore | None) -> Files:
    """Make the files of an evaluation available to nodes, in a store if there is one.

    Raises:
        UnknownNameError: a model or the data set is no longer there.
        DatasetError: the data set cannot be read.
        ContentError: the store cannot be written.
    """
    here = _absolute(catalog)
    if store is None:
        return SharedFolders(here)
    listed = {name: store.put(path) for name, path in files_of(plan, here).items()}
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.json"
        manifest.write_text(canonical_json(listed))
        return StoredFiles(store, store.put(manifest), Catalog(compiled=catalog.compiled, pixel_cache=here.pixel_cache))


def files_of(plan: Plan, catalog: Catalog) -> dict[str, Path]:
    """List the checkpoints and cards of an evaluation, and the files of its data set, by their paths in the folders of a node."""
    sources = (name for each in plan.sources.values() for name in each)
    checkpoints = [catalog.checkpoint(name) for name in dict.fromkeys([*plan.spec.models, *sources])]
    files = {f"models/{path.name}": path for each in checkpoints for path in (each.path, each.card_path)}
    dataset = catalog.open_dataset(plan.spec.dataset)
    if not dataset.path.is_dir():
        return files | {f"datasets/{dataset.path.name}": dataset.path}
    pictures, root = set(dataset.files), dataset.path
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return files | {
        f"datasets/{root.name}/{below}": root / below
        for below in (path.relative_to(root).as_posix() for path in found)
        if printable(below) in pictures
    }


def _absolute(catalog: Catalog) -> Catalog:
    return replace(
        catalog,
        model_folders=tuple(each.resolve() for each in catalog.model_folders),
        dataset_folders=tuple(each.resolve() for each in catalog.dataset_folders),
        more_datasets=tuple(each.resolve() for each in catalog.more_datasets),
        store=None,
        dataset_store=None,
    )
