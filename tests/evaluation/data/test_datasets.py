import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from evaluation import DatasetError, SelectionError, open_dataset
from evaluation.catalog import Catalog
from tests.conftest import CLASSES, picture_bytes


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


DOT = picture_bytes(Image.new("L", (2, 2), 7))


def test_a_zip_is_read_without_unpacking(shapes_zip: Path) -> None:
    before = set(shapes_zip.parent.iterdir())
    dataset = open_dataset(shapes_zip)
    assert dataset.classes == CLASSES
    assert len(dataset) == 33
    assert [dataset.classes[dataset.labels[i]] for i in range(33)] == [name.split("/")[0] for name in dataset.files]
    assert dataset.picture(0).size == (32, 32)
    assert set(shapes_zip.parent.iterdir()) == before


def test_a_folder_and_a_zip_of_it_hold_the_same(shapes_zip: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(shapes_zip).extractall(tmp_path / "shapes")
    folder, archive = open_dataset(tmp_path / "shapes"), open_dataset(shapes_zip)
    assert (folder.classes, folder.files, folder.labels) == (archive.classes, archive.files, archive.labels)
    assert [folder.read(i) for i in range(33)] == [archive.read(i) for i in range(33)]
    assert folder.select(10, seed=3) == archive.select(10, seed=3)


def test_the_hash_follows_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    file = tmp_path / "set" / "a" / "1.png"
    file.write_bytes(DOT)
    first = open_dataset(tmp_path / "set").sha256
    assert open_dataset(tmp_path / "set").sha256 == first
    file.write_bytes(picture_bytes(Image.new("L", (2, 2), 8)))
    assert open_dataset(tmp_path / "set").sha256 != first
    file.write_bytes(DOT)
    file.rename(file.with_name("2.png"))
    assert open_dataset(tmp_path / "set").sha256 != first


def test_one_folder_around_everything_is_no_class(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.zip", {"val/cat/1.png": DOT, "val/dog/1.png": DOT, "README.txt": b"hello"})
    assert open_dataset(path).classes == ("cat", "dog")


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.zip", {"cat/home/1.png": DOT, "cat/2.png": DOT, "dog/1.PNG": DOT})
    dataset = open_dataset(path)
    assert [dataset.classes[label] for label in dataset.labels] == ["cat", "cat", "dog"]


class TestSelection:
    def test_classes_are_even_and_larger_selections_begin_with_smaller_ones(self, shapes_zip: Path) -> None:
        dataset = open_dataset(shapes_zip)
        chosen = dataset.select(None, seed=5)
        assert sorted(chosen) == list(range(33))
        for n in (1, 7, 12, 33):
            assert dataset.select(n, seed=5) == chosen[:n]
            counts = Counter(dataset.labels[i] for i in chosen[:n])
            assert max(counts.values()) - min(counts[label] for label in range(3)) <= 1

    def test_the_seed_decides(self, shapes_zip: Path) -> None:
        dataset = open_dataset(shapes_zip)
        assert dataset.select(12, seed=1) == dataset.select(12, seed=1) != dataset.select(12, seed=2)

    def test_classes_of_different_sizes_all_come_in(self, tmp_path: Path) -> None:
        entries = {f"big/{i}.png": DOT for i in range(9)} | {"small/1.png": DOT}
        dataset = open_dataset(write_zip(tmp_path / "w.zip", entries))
        assert Counter(dataset.labels[i] for i in dataset.select(4, seed=0)) == {0: 3, 1: 1}

    def test_more_than_there_are_is_refused(self, shapes_zip: Path) -> None:
        with pytest.raises(SelectionError, match=r"34 images asked for, shapes.zip has 33"):
            open_dataset(shapes_zip).select(34, seed=0)


@pytest.mark.parametrize("name", ["../out/1.png", "a/../../1.png", "/etc/1.png", "a\\..\\1.png", "C:/a/1.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "w.zip", {"a/1.png": DOT, name: DOT})
    with pytest.raises(DatasetError, match="points outside the archive"):
        open_dataset(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("a/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match="is a link"):
        open_dataset(path)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.zip", {"a/1.png": bytes(8 * 2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DatasetError, match="zip bomb"):
        open_dataset(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 100])
def test_bytes_that_are_no_zip_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.zip"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"w.zip is not a readable zip file"):
        open_dataset(path)


@pytest.mark.parametrize("entries", [{}, {"readme.txt": b"x"}, {"1.png": DOT}, {"a/1.png": DOT, "2.png": DOT}])
def test_what_is_not_sorted_into_classes_is_refused(tmp_path: Path, entries: dict[str, bytes]) -> None:
    with pytest.raises(DatasetError, match="expected one folder of pictures per class"):
        open_dataset(write_zip(tmp_path / "w.zip", entries))


def test_nothing_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set at"):
        open_dataset(tmp_path / "missing")


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    whole = picture_bytes(Image.effect_noise((64, 64), 50))
    dataset = open_dataset(write_zip(tmp_path / "w.zip", {"a/1.png": b"junk", "a/2.png": whole[: len(whole) // 2]}))
    for index in (0, 1):
        with pytest.raises(DatasetError, match=rf"w.zip: a/{index + 1}.png: "):
            dataset.picture(index)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.zip", {"a/1.png": DOT})
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a/1.png"):
        open_dataset(path).picture(0)


def test_a_catalog_finds_what_is_added_and_notices_what_changes(tmp_path: Path) -> None:
    catalog = Catalog((), (tmp_path,))
    assert catalog.datasets() == {}
    write_zip(tmp_path / "new.zip", {"a/1.png": DOT})
    assert len(catalog.open_dataset("new")) == 1
    write_zip(tmp_path / "new.zip", {"a/1.png": DOT, "a/2.png": DOT})
    assert len(catalog.open_dataset("new")) == 2
    (tmp_path / "folder" / "a").mkdir(parents=True)
    for count in (1, 2):
        (tmp_path / "folder" / "a" / f"{count}.png").write_bytes(DOT)
        assert len(catalog.open_dataset("folder")) == count
    (tmp_path / "new").mkdir()
    with pytest.raises(DatasetError, match="two data sets are named 'new'"):
        catalog.open_dataset("new")
    assert sorted(catalog.datasets()) == ["folder", "new"]
    assert len(catalog.open_dataset("folder")) == 2


def test_a_picture_in_memory_stays_the_same_through_a_zip(tmp_path: Path) -> None:
    gradient = Image.linear_gradient("L")
    dataset = open_dataset(write_zip(tmp_path / "w.zip", {"a/1.png": picture_bytes(gradient)}))
    assert dataset.picture(0).tobytes() == gradient.tobytes()
    assert Image.open(io.BytesIO(dataset.read(0))).size == gradient.size
