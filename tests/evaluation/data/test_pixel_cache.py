"""Pixels that are stored are read whole or not at all, whatever happens to the process, the file or the disk."""

import errno
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.data import pixel_cache
from evaluation.data.pixel_cache import TEMPORARY, PixelCache, PixelFile
from models import Preprocessing
from tests.forking import python

SIDE = 16
SMALL = Preprocessing(resize=SIDE, crop=SIDE)
RECORD_BYTES = 3 * SIDE**2 + 8
BLOCK_BYTES = 4096
"""What a file system allocates at least."""


def pixels(index: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (3, side, side), dtype=np.uint8)


def stored(file: PixelFile, index: int, side: int = SIDE) -> NDArray[np.uint8] | None:
    into = np.empty((3, side, side), np.uint8)
    return into if file.read(index, into) else None


def whole(file: PixelFile, indices: range, side: int = SIDE) -> list[int]:
    """The pictures that are there; each is as it was written."""
    found: list[int] = []
    for index in indices:
        there = stored(file, index, side)
        if there is not None:
            assert np.array_equal(there, pixels(index, side)), index
            found.append(index)
    return found


def fill(file: PixelFile, indices: range, side: int = SIDE) -> None:
    for index in indices:
        file.write(index, pixels(index, side))


@pytest.fixture(autouse=True)
def _every_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that other tests have seen; and a disk that is nearly full is no matter."""
    pixel_cache._warn.cache_clear()
    monkeypatch.setattr(pixel_cache, "RESERVE_BYTES", -(2**50))


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(tmp_path / "pixels")


def only_file(cache: PixelCache) -> Path:
    assert cache.folder is not None
    (found,) = cache.folder.iterdir()
    return found


@pytest.mark.parametrize("where", ["in a folder", "for a while"])
def test_what_is_written_is_read(cache: PixelCache, where: str) -> None:
    file = (cache if where == "in a folder" else TEMPORARY).open("d", SMALL)
    assert whole(file, range(9)) == []
    fill(file, range(2, 7, 2))
    file.write(8, np.zeros((3, SIDE, SIDE), np.uint8))
    assert whole(file, range(8)) == [2, 4, 6]
    black = stored(file, 8)
    assert black is not None
    assert not black.any(), "a black picture is one too, a hole in the file is none"
    assert whole(cache.open("d", SMALL), range(8)) == ([2, 4, 6] if where == "in a folder" else [])


def test_files_are_private_and_their_names_tell_nothing(cache: PixelCache) -> None:
    cache.open("secret", SMALL)
    file = only_file(cache)
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert len(file.name) == 64
    assert "secret" not in file.name


def test_an_address_is_of_a_data_set_a_geometry_the_decoders_and_their_code(
    cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.folder is not None
    fill(cache.open("d", SMALL), range(1))
    same = Preprocessing(resize=SIDE, crop=SIDE, std=(0.5, 0.5, 0.5), mean=(0.1, 0.1, 0.1))
    assert whole(cache.open("d", same), range(1)) == [0]
    for dataset, preprocessing in (("e", SMALL), ("d", Preprocessing(resize=SIDE + 1, crop=SIDE))):
        assert whole(cache.open(dataset, preprocessing), range(1)) == []
    monkeypatch.setattr(pixel_cache, "decoders", lambda: "pillow 99")
    assert whole(cache.open("d", SMALL), range(1)) == []
    monkeypatch.setattr(pixel_cache, "_code_sha256", lambda: "other")
    assert whole(cache.open("d", SMALL), range(1)) == []
    assert len([*cache.folder.iterdir()]) == 5


@pytest.mark.parametrize("offset", [0, 3, 4, 7, 8, 300, RECORD_BYTES - 1])
def test_a_flipped_bit_makes_one_record_absent(cache: PixelCache, offset: int) -> None:
    fill(cache.open("d", SMALL), range(4))
    data = bytearray(only_file(cache).read_bytes())
    data[2 * RECORD_BYTES + offset] ^= 1
    only_file(cache).write_bytes(data)
    file = cache.open("d", SMALL)
    assert whole(file, range(4)) == [0, 1, 3]
    fill(file, range(2, 3))
    assert whole(file, range(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [0, 1, 8, 9, RECORD_BYTES - 1])
def test_a_file_cut_short_while_it_is_read_ends_nothing(cache: PixelCache, length: int) -> None:
    file = cache.open("d", SMALL)
    fill(file, range(4))
    os.truncate(only_file(cache), 2 * RECORD_BYTES + length)
    assert whole(file, range(4)) == [0, 1]
    fill(file, range(4))
    assert whole(file, range(4)) == [0, 1, 2, 3]


def test_a_removed_file_can_still_be_read_and_written(cache: PixelCache) -> None:
    file = cache.open("d", SMALL)
    fill(file, range(2))
    only_file(cache).unlink()
    fill(file, range(2, 4))
    assert whole(file, range(4)) == [0, 1, 2, 3]
    assert whole(cache.open("d", SMALL), range(4)) == [], "another file took its place"


LARGE_SIDE = 1024
WRITER = """
import sys
from pathlib import Path
from evaluation.data.pixel_cache import PixelCache
from models import Preprocessing
from tests.evaluation.data.test_pixel_cache import pixels
side, rounds = int(sys.argv[2]), int(sys.argv[3])
file = PixelCache(Path(sys.argv[1])).open("d", Preprocessing(resize=side, crop=side))
drawn = [pixels(index, side) for index in range(8)]
print("ready", flush=True)
for _ in range(rounds):
    for index, each in enumerate(drawn):
        file.write(index, each)
print("done", flush=True)
"""


@contextmanager
def writer(cache: PixelCache, side: int, rounds: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes eight records again and again, from when it said that it is ready."""
    with subprocess.Popen(python(WRITER, cache.folder, side, rounds), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011])
def test_what_a_killed_writer_left_is_whole_or_absent(cache: PixelCache, delay_s: float) -> None:
    preprocessing = Preprocessing(resize=LARGE_SIDE, crop=LARGE_SIDE)
    with writer(cache, LARGE_SIDE, 10**6) as process:
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    file = cache.open("d", preprocessing)
    found = whole(file, range(8), LARGE_SIDE)
    fill(file, range(8), LARGE_SIDE)
    assert whole(file, range(8), LARGE_SIDE) == [*range(8)], f"{found} were there"


def test_two_processes_may_write_while_another_reads(cache: PixelCache) -> None:
    with writer(cache, SIDE, 300) as one, writer(cache, SIDE, 300) as other:
        file = cache.open("d", SMALL)
        while one.poll() is None or other.poll() is None:
            whole(file, range(8))
        assert (one.returncode, other.returncode) == (0, 0)
        assert whole(file, range(8)) == [*range(8)]


def test_what_was_used_longest_ago_makes_room(cache: PixelCache) -> None:
    assert cache.folder is not None
    small = PixelCache(cache.folder, 16 * BLOCK_BYTES)
    for number, dataset in enumerate("abc"):
        fill(small.open(dataset, SMALL), range(10))  # two blocks each
        path = max(small.folder.iterdir(), key=lambda each: each.stat().st_mtime_ns)  # pyright: ignore[reportOptionalMemberAccess]
        os.utime(path, (number, number))
    (foreign := cache.folder / "foreign").write_bytes(bytes(20 * BLOCK_BYTES))
    small.open("a", SMALL)  # used again
    fill(small.open("d", SMALL), range(50))  # ten blocks
    assert whole(small.open("b", SMALL), range(10)) == []
    for dataset, count in (("a", 10), ("c", 10), ("d", 50)):
        assert whole(small.open(dataset, SMALL), range(count)) == [*range(count)], dataset
    assert foreign.exists(), "only what lies there by its hash is removed"


def test_what_another_process_reads_is_not_removed(cache: PixelCache) -> None:
    assert cache.folder is not None
    small = PixelCache(cache.folder, 16 * BLOCK_BYTES)
    with writer(cache, SIDE, 10**6) as process:
        os.kill(process.pid, signal.SIGSTOP)
        used = only_file(cache)
        os.utime(used, (0, 0))
        unused = small.open("unused", SMALL)
        fill(unused, range(10))
        del unused
        fill(small.open("e", SMALL), range(80))
        assert used.exists()
        assert whole(small.open("unused", SMALL), range(10)) == []
    fill(small.open("f", SMALL), range(80))
    assert not used.exists(), "it is removed once its reader has ended"


def test_a_file_larger_than_the_limit_grows_no_further(cache: PixelCache, caplog: pytest.LogCaptureFixture) -> None:
    small = PixelCache(cache.folder, 16 * BLOCK_BYTES)
    for _ in range(2):
        file = small.open("d", SMALL)
        fill(file, range(200))
        assert not file.writable
    there = whole(file, range(200))
    assert there == [*range(len(there))]
    assert 70 < len(there) < 90
    assert only_file(cache).stat().st_blocks * 512 <= 16 * BLOCK_BYTES
    (line,) = caplog.messages
    assert line.endswith("no room within 65536 bytes, or on the disk")


def test_a_small_limit_holds_what_fits(cache: PixelCache) -> None:
    file = PixelCache(cache.folder, 3 * BLOCK_BYTES).open("d", SMALL)
    fill(file, range(40))
    there = whole(file, range(40))
    assert there == [*range(len(there))]
    assert 10 <= len(there) <= 3 * BLOCK_BYTES // RECORD_BYTES


def test_nothing_is_written_to_a_disk_that_is_nearly_full(
    cache: PixelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pixel_cache, "RESERVE_BYTES", 2**60)
    file = cache.open("d", SMALL)
    fill(file, range(4))
    assert whole(file, range(4)) == []
    assert len(caplog.messages) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_full_disk_is_told_once(cache: PixelCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.open("d", SMALL)
    path = only_file(cache)
    path.unlink()
    path.symlink_to("/dev/full")
    for _ in range(3):
        file = cache.open("d", SMALL)
        fill(file, range(4))
        assert whole(file, range(4)) == []
        assert not file.writable
    assert caplog.messages == [f"decoded pictures are no longer stored in {cache.folder}: {os.strerror(errno.ENOSPC)}"]


LIMITED = f"""
import resource, sys
from pathlib import Path
from evaluation.data.pixel_cache import PixelCache
from tests.evaluation.data.test_pixel_cache import SMALL, fill, whole
resource.setrlimit(resource.RLIMIT_FSIZE, ({5 * RECORD_BYTES // 2}, {5 * RECORD_BYTES // 2}))
file = PixelCache(Path(sys.argv[1])).open("d", SMALL)
fill(file, range(4))
print(whole(file, range(4)), file.writable)
"""


def test_a_record_that_was_cut_by_a_quota_is_absent(cache: PixelCache) -> None:
    done = subprocess.run(python(LIMITED, cache.folder), capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1] False\n"
    assert only_file(cache).stat().st_size == 5 * RECORD_BYTES // 2
    assert len(done.stderr.splitlines()) == 1
    file = cache.open("d", SMALL)
    assert whole(file, range(4)) == [0, 1]
    fill(file, range(4))
    assert whole(file, range(4)) == [0, 1, 2, 3]


def test_where_there_can_be_no_folder_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        file = PixelCache(tmp_path / "file").open("d", SMALL)
        fill(file, range(2))
        assert whole(file, range(2)) == []
        assert not file.writable
    (line,) = caplog.messages
    assert line.startswith(f"decoded pictures cannot be stored in {tmp_path / 'file'}: ")


@contextmanager
def without_privileges(folder: Path) -> Iterator[None]:
    """Root may write everywhere."""
    if os.geteuid():
        yield
        return
    nobody = 65534
    for each in (folder, *folder.rglob("*")):
        os.chown(each, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_can_only_be_read_is_read(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as parent:
        cache = PixelCache(Path(parent) / "pixels")
        fill(cache.open("d", SMALL), range(2))
        path = only_file(cache)
        with without_privileges(Path(parent)):
            path.chmod(0o400)
            path.parent.chmod(0o500)
            file, other = cache.open("d", SMALL), cache.open("other", SMALL)
            fill(file, range(4))
            fill(other, range(4))
            assert (whole(file, range(4)), whole(other, range(4))) == ([0, 1], [])
            path.parent.chmod(0o700)
    (line,) = caplog.messages
    assert line == f"decoded pictures cannot be stored in {cache.folder}: {os.strerror(errno.EACCES)}"
