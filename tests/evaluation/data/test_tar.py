"""Tar files are read where they lie, with the limits of zips."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from evaluation import Catalog, DatasetError, open_dataset
from evaluation.data import sources
from tests.conftest import picture_bytes

DOT = picture_bytes(Image.new("L", (2, 2), 7))
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}


def write_tar(path: Path, entries: dict[str, bytes], **changes: object) -> Path:
    """Write a tar, compressed as its name says; keyword arguments change the last entry."""
    mode = MODES["".join(path.suffixes)]
    with tarfile.open(path, mode) as archive:
        for number, (name, data) in enumerate(entries.items(), 1):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if number == len(entries):
                for field, value in changes.items():
                    setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("ending", MODES)
def test_a_tar_and_a_zip_of_the_same_hold_the_same(shapes_zip: Path, tmp_path: Path, ending: str) -> None:
    with zipfile.ZipFile(shapes_zip) as archive:
        entries = {f"./{name}": archive.read(name) for name in archive.namelist()}
    path = write_tar(tmp_path / f"shapes{ending}", entries)
    found, expected = open_dataset(path), open_dataset(shapes_zip)
    assert (found.classes, found.files, found.labels) == (expected.classes, expected.files, expected.labels)
    assert [found.read(i) for i in range(33)] == [expected.read(i) for i in range(33)]
    assert [*tmp_path.iterdir()] == [path]
    assert [*Catalog((), (tmp_path,)).datasets()] == ["shapes"]


def test_of_two_entries_with_one_name_the_later_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "w.tar", {"a/1.png": b"old"})
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("./a/1.png")
        entry.size = len(DOT)
        archive.addfile(entry, io.BytesIO(DOT))
    dataset = open_dataset(path)
    assert [dataset.read(index) for index in range(len(dataset))] == [DOT]


@pytest.mark.parametrize("ending", [".tar", ".tgz"])
@pytest.mark.parametrize("name", ["../out/1.png", "a/../../1.png", "/etc/1.png", "a\\..\\1.png", "C:/a/1.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str, ending: str) -> None:
    with pytest.raises(DatasetError, match="points outside the archive"):
        open_dataset(write_tar(tmp_path / f"w{ending}", {"a/1.png": DOT, name: DOT}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes, said: str) -> None:
    path = write_tar(tmp_path / "w.tar", {"b/1.png": DOT, "a/1.png": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(DatasetError, match=rf"w.tar: the entry 'a/1.png' is .*{said}.*only plain files"):
        open_dataset(path)


def test_limits_are_those_of_zips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "w.tar", {"a/1.png": DOT, "a/2.png": DOT})
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    with pytest.raises(DatasetError, match="at most 1 are allowed"):
        open_dataset(path)
    monkeypatch.setattr(sources, "MAX_FILES", 2)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", len(DOT) - 1)
    with pytest.raises(DatasetError, match=rf"'a/1.png' has {len(DOT)} bytes"):
        open_dataset(path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "w.tar.gz", {"a/1.png": bytes(8 * 2**20)})
    with pytest.raises(DatasetError, match=r"w.tar.gz expands more than 50 times"):
        open_dataset(path)


@pytest.mark.parametrize("ending", MODES)
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"not a tar" * 100, gzip.compress(b"not a tar" * 100, mtime=0)])
def test_bytes_that_are_no_tar_are_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"w{ending} is not a readable tar file"):
        open_dataset(path)


def test_a_record_of_absurd_length_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "w.tar", {"a/1.png": DOT}, pax_headers={"comment": "x"})
    record = b"13 comment=x\n"
    data = path.read_bytes()
    assert record in data
    absurd = b"9" * 100 + b" comment=x\n"
    path.write_bytes(data.replace(record.ljust(len(absurd), b"\0"), absurd))
    with pytest.raises(DatasetError, match=r"w\.tar is not a readable tar file"):
        open_dataset(path)


@pytest.mark.parametrize("ending", MODES)
def test_a_tar_that_was_cut_off_is_refused_wherever(tmp_path: Path, ending: str) -> None:
    entries = {f"a/{number}.png": number.to_bytes(2) * 300 for number in range(4)}
    whole = write_tar(tmp_path / f"whole{ending}", entries).read_bytes()
    path = tmp_path / f"cut{ending}"
    for length in (len(whole) // 7, 700, 1536 + 300) if ending == ".tar" else (len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match="is not a readable tar file"):
            open_dataset(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "w.tar", {"a/1.png": DOT, "a/2.png": DOT})
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 255
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged at byte 1024"):
        open_dataset(path)


def test_another_file_is_told_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "w.rar").write_bytes(b"Rar!")
    with pytest.raises(DatasetError, match=r"w.rar is neither a folder nor an archive .* .zip, .tar, .tar.gz, .tgz"):
        open_dataset(tmp_path / "w.rar")
