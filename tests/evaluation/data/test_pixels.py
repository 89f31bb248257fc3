"""Each picture is decoded once, whatever is evaluated on it, and the batches are as if it were decoded for each."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch

import evaluation.catalog
import evaluation.data.datasets
import models
from evaluation import Catalog, DatasetError, EvaluationSpec, Report, evaluate, make_plan, open_dataset, run_shard
from evaluation.data import pixels
from evaluation.data.pixel_cache import PixelCache
from evaluation.data.pixels import Ahead, Block
from tests.conftest import CLASSES, Put, picture_bytes, shape_picture, without_times

PICTURES = 33
SPEC = EvaluationSpec.model_validate(
    {
        "models": ["tiny", "twin"],
        "dataset": "shapes",
        "conditions": [
            {"kind": "clean"},
            {"kind": "transform", "name": "rotation", "parameters": {"degrees": 30}},
            {
                "kind": "adversarial",
                "threat": {"norm": "Linf", "eps": "8/255"},
                "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
            },
        ],
    }
)


class Decoded:
    """Counts the pictures that are decoded."""

    def __init__(self, opener: Callable[..., object]) -> None:
        self._opener, self._lock, self.count = opener, Lock(), 0

    def __call__(self, data: bytes) -> object:
        with self._lock:
            self.count += 1
        return self._opener(data)

    def since_last(self) -> int:
        count, self.count = self.count, 0
        return count


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test counts what the threads of another still decode."""
    made: list[ThreadPoolExecutor] = []

    class Known(ThreadPoolExecutor):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr(pixels, "ThreadPoolExecutor", Known)
    yield
    for each in made:
        each.shutdown(cancel_futures=True)
    evaluation.catalog._open.__wrapped__.cache_clear()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    counting = Decoded(evaluation.data.datasets.open_picture)
    monkeypatch.setattr(evaluation.data.datasets, "open_picture", counting)
    evaluation.catalog._open.__wrapped__.cache_clear()
    return counting


@pytest.fixture
def storing(catalog: Catalog, tmp_path: Path) -> Catalog:
    """The catalog with folders, as the command and the server have it."""
    cache = PixelCache(tmp_path / "pixels")
    return Catalog(catalog.model_folders, catalog.dataset_folders, notes=tmp_path / "notes", pixel_cache=cache)


def run(catalog: Catalog, spec: EvaluationSpec = SPEC) -> Report:
    """Evaluate as in a process of its own."""
    evaluation.catalog._open.__wrapped__.cache_clear()
    return evaluate(spec, catalog=catalog, device="cpu")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def cache_files(catalog: Catalog) -> list[Path]:
    assert catalog.pixel_cache.folder is not None
    return [*catalog.pixel_cache.folder.iterdir()]


def test_an_evaluation_decodes_each_picture_once(storing: Catalog, catalog: Catalog, decoded: Decoded) -> None:
    first = run(storing)
    assert decoded.since_last() == PICTURES
    assert without_times(run(storing)) == without_times(first)
    assert decoded.since_last() == 0, "nor does the next one"
    assert without_times(run(catalog)) == without_times(first)
    assert decoded.since_last() == PICTURES, "also where nothing is stored for long"


def test_what_was_looked_at_but_not_kept_is_decoded_on_the_way(storing: Catalog, decoded: Decoded) -> None:
    before = run(storing)
    decoded.since_last()
    for file in cache_files(storing):
        file.unlink()
    assert without_times(run(storing)) == without_times(before)
    assert decoded.since_last() == PICTURES
    run(storing)
    assert decoded.since_last() == 0


def test_models_of_two_geometries_share_one_look(
    storing: Catalog, decoded: Decoded, tmp_path: Path, put_checkpoint: Put
) -> None:
    (folder := tmp_path / "models").mkdir()
    put_checkpoint(folder, "large", preprocessing={"resize": 48, "crop": 40, "mean": [0.5] * 3, "std": [0.25] * 3})
    both = Catalog(
        (*storing.model_folders, folder), storing.dataset_folders, notes=storing.notes, pixel_cache=storing.pixel_cache
    )
    run(both, SPEC.model_copy(update={"models": ("tiny", "twin", "large")}))
    assert decoded.since_last() == PICTURES
    assert len(cache_files(both)) == 2


def test_without_room_everything_is_as_it_was(
    catalog: Catalog, tmp_path: Path, decoded: Decoded, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    folderless = Catalog(
        catalog.model_folders, catalog.dataset_folders, pixel_cache=PixelCache(tmp_path / "file" / "pixels")
    )
    full = Catalog(catalog.model_folders, catalog.dataset_folders, pixel_cache=PixelCache(tmp_path / "pixels", 0))
    expected = without_times(run(catalog))
    decoded.since_last()
    for each in (folderless, full):
        assert without_times(run(each)) == expected
        assert decoded.since_last() > PICTURES
    assert len(caplog.messages) == 2, "a line for each, however many pictures and shards"


def test_a_picture_that_broke_meanwhile_is_named(storing: Catalog, tmp_path: Path) -> None:
    folder, generator = tmp_path / "sets" / "pictures", np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(picture_bytes(shape_picture(label, generator)))
    changed = Catalog(storing.model_folders, (folder.parent,), pixel_cache=storing.pixel_cache)
    spec = EvaluationSpec(models=("tiny",), dataset="pictures")
    plan, dataset = make_plan(spec, changed), changed.open_dataset("pictures")
    for file in cache_files(storing):
        file.unlink()
    (folder / "square" / "a.png").write_bytes(b"junk")
    with pytest.raises(DatasetError, match=r"^pictures: square/a.png: not a picture"):
        run_shard(spec, plan.shards[0], classifier=changed.load_model("tiny"), dataset=dataset)


@pytest.fixture
def shapes(shapes_zip: Path, tmp_path: Path) -> evaluation.ImageFolder:
    return open_dataset(shapes_zip, pixel_cache=PixelCache(tmp_path / "pixels"))


ODD = models.Preprocessing(resize=29, crop=23, interpolation="bicubic")


@pytest.mark.parametrize("per_block", [1, 4, 7, 100])
@pytest.mark.parametrize(
    "asked", [[range(5), range(5, 12), range(12)], [range(3, 12)], [[0, 2, 3, 11], [7], range(2)]], ids=str
)
def test_any_places_have_the_pixels_of_their_pictures(
    shapes: evaluation.ImageFolder, asked: list[list[int]], per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "BLOCK_BYTES", per_block * 3 * ODD.crop**2 + 1)
    order = [30, 2, 7, 0, 11, 32, 5, 6, 1, 20, 21, 9]
    ahead = Ahead(shapes.pixels(ODD), order, [1, 2, 3], pinned=False)
    for positions in asked:
        expected = torch.stack([ODD(shapes.picture(order[position])) for position in positions])
        assert torch.equal(models.scaled(ahead.take(positions)), expected)


def test_what_follows_is_decoded_before_it_is_asked_for(shapes: evaluation.ImageFolder, decoded: Decoded) -> None:
    source = shapes.pixels(ODD)
    Ahead(source, range(4), range(4, 9), pinned=False).take([0])
    until(lambda: decoded.count == 9)
    decoded.since_last()
    later = Ahead(source, range(4, 9), range(4, 9), pinned=False).take(range(5))
    assert decoded.since_last() == 0
    assert torch.equal(models.scaled(later[0]), ODD(shapes.picture(4)))


def test_another_shard_may_take_the_block_that_was_just_begun(shapes: evaluation.ImageFolder) -> None:
    source = shapes.pixels(ODD)

    class Freed(Block):
        """While the memory of a block is freed, other threads run."""

        def __del__(self) -> None:
            taken.append(source.block((1,), pinned=False))

    taken: list[Block] = []
    source._begun = Freed(source, (0,), pinned=False)
    source.begin((1,), Block(source, (2,), pinned=False), pinned=False)
    assert torch.equal(models.scaled(taken[0].take([0])[0]), ODD(shapes.picture(1)))


def test_the_following_shard_is_the_next_of_the_same_model(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 10)
    plan = make_plan(SPEC, catalog)
    shards = plan.shards
    for steps in (1, 2, 5):
        for position, shard in enumerate(shards):
            then = shards[position + steps] if position + steps < len(shards) else None
            expected = then if then is not None and then.model == shard.model else None
            assert plan.following(shard, steps) == expected
