"""Files of an evaluation in a store, and in the cache folder of a node."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest

from common import file_sha256
from evaluation import Catalog
from evaluation.results.protocol import Work
from service.cluster.calls import compute_on_node
from service.cluster.content import ContentError, ContentStore
from service.cluster.files import StoredFiles, share
from service.jobs.executors import compute
from tests.conftest import Put
from tests.service.jobs.dispatching import plan_of


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "store"))


def a_file(folder: Path, text: str = "weights") -> Path:
    path = folder / "file"
    path.write_text(text)
    return path


def test_a_file_is_written_once_under_its_hash_and_pulled_once(content: ContentStore, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    sha256 = content.put(path)
    assert sha256 == file_sha256(path)
    stored = Path(content.url) / sha256
    written = stored.stat().st_mtime_ns
    assert content.put(path) == sha256
    assert [each.name for each in Path(content.url).iterdir()] == [sha256]
    assert stored.stat().st_mtime_ns == written

    with ThreadPoolExecutor(8) as many:
        pulled = {*many.map(lambda _: content.pull(sha256, tmp_path / "cache"), range(8))}
    (there,) = pulled
    assert there.read_text() == "weights"
    stored.unlink()
    assert content.pull(sha256, tmp_path / "cache") == there
    assert [each.name for each in there.parent.iterdir()] == [sha256]


def test_missing_and_wrong_content_is_refused_and_not_stored(content: ContentStore, tmp_path: Path) -> None:
    sha256 = content.put(a_file(tmp_path))
    (Path(content.url) / sha256).write_text("other weights")
    with pytest.raises(ContentError, match=f"has another content under the name {sha256}"):
        content.pull(sha256, tmp_path / "cache")
    (Path(content.url) / sha256).unlink()
    with pytest.raises(ContentError, match=f"has no file {sha256}"):
        content.pull(sha256, tmp_path / "cache")
    assert [*(tmp_path / "cache" / "files").glob("*[!t]")] == []
    content.put(a_file(tmp_path))
    assert content.pull(sha256, tmp_path / "cache").read_text() == "weights"


@pytest.mark.parametrize("sha256", ["", "a" * 63, "../" + "a" * 61, "A" * 64, "a" * 64 + "\n"])
def test_only_hashes_are_pulled(content: ContentStore, tmp_path: Path, sha256: str) -> None:
    with pytest.raises(ContentError, match="is no SHA-256 of a file"):
        content.pull(sha256, tmp_path)


def test_a_store_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with pytest.raises(ContentError, match="is the memory of one process"):
        ContentStore("memory://store").put(path)
    with pytest.raises(ContentError, match=r"s3://bucket/store cannot be opened: Install s3fs"):
        ContentStore("s3://bucket/store").put(path)
    with pytest.raises(ContentError, match=r"Protocol not known: nowhere"):
        ContentStore("nowhere://store").put(path)
    with pytest.raises(ContentError, match=r"file cannot be put into the store .*Not a directory"):
        ContentStore(str(path / "below")).put(path)


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "models/../../../escaped", "models/..", ""])
def test_a_list_of_files_cannot_lead_out_of_the_cache(content: ContentStore, tmp_path: Path, name: str) -> None:
    path = a_file(tmp_path)
    listed = tmp_path / "listed"
    listed.write_text(json.dumps({name: content.put(path)}))
    files = StoredFiles(content, content.put(listed), Catalog())
    with pytest.raises(ContentError, match="points outside"):
        files.on_node(tmp_path / "deep" / "er" / "cache")
    assert not [*tmp_path.rglob("escaped")]


@pytest.mark.parametrize("as_folder", [False, True], ids=["archive", "folder"])
def test_what_a_node_pulled_computes_the_same_and_the_server_s_files_are_not_needed(
    content: ContentStore, put_checkpoint: Put, shapes_zip: Path, tmp_path: Path, as_folder: bool
) -> None:
    here, cache = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    put_checkpoint(here, "mine")
    put_checkpoint(here, "unused")
    if as_folder:
        ZipFile(shapes_zip).extractall(here / "pictures")
        (here / "pictures" / "notes.txt").write_text("no picture")
    else:
        shutil.copyfile(shapes_zip, here / "pictures.zip")
    catalog = Catalog((here,), (here,))
    plan = plan_of(catalog, models=["mine"], dataset="pictures")
    work = Work(plan, plan.shards[0])
    alone = compute(catalog, work)
    files = share(plan, catalog, content)
    shutil.rmtree(here)
    assert compute_on_node(files, cache, work).rows == alone.rows
    names = {path.name for path in (cache / "trees").rglob("*") if path.is_file()}
    assert {"mine.safetensors", "mine.json"} < names
    assert not {"unused.safetensors", "notes.txt"} & names
    shutil.rmtree(content.url)
    assert compute_on_node(files, cache, work).rows == alone.rows


def test_without_a_store_nodes_read_the_server_s_folders(catalog: Catalog, tmp_path: Path) -> None:
    plan = plan_of(catalog)
    there = share(plan, catalog, None).on_node(tmp_path)
    assert there.model_folders == tuple(each.resolve() for each in catalog.model_folders)
    assert (there.pixel_cache.folder, there.notes) == (tmp_path / "pixels", tmp_path / "notes")
    assert share(plan, catalog, None) == share(plan, catalog, None)
