"""Random damage to what strangers send: readers may refuse it, and nothing else.

`python -m tests.fuzz SECONDS` tries each reader for so long, prints how many cases it saw and stops at the first that surprises.
"""

import io
import json
import random
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

import models
from common.pictures import PictureError, open_picture, picture_size
from evaluation import DatasetError, open_dataset
from models.state_dicts import read_checkpoint
from tests.common.bombs import tagged, tiff
from tests.common.test_containers import PPMS

SLOW_S = 3.0
"""No case may take longer."""
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xda",
    b"IDAT",
    b"..",
    b"\0\0\0\1",
)


@dataclass(frozen=True)
class Target:
    """A reader, what it may raise, and files that it reads."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]


def _pictures() -> list[bytes]:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    more: dict[str, list[dict[str, object]]] = {
        "PNG": [{}, {"exif": exif}, {"pnginfo": None, "optimize": True}],
        "JPEG": [{}, {"exif": exif}, {"progressive": True}, {"comment": b"hello"}],
        "WEBP": [{}, {"lossless": True, "exif": exif}, {"save_all": True, "append_images": [noise.rotate(90)]}],
        "GIF": [{}, {"save_all": True, "append_images": [noise.rotate(90)], "comment": b"two"}],
        "TIFF": [{"compression": each} for each in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")],
        "BMP": [{}],
    }
    seeds = [tiff(behind=bytes(80)), tagged(3, 8), *PPMS.values()]
    for kind, options in more.items():
        for each in options:
            for picture in (noise, noise.convert("L"), noise.convert("P"), noise.convert("CMYK"), noise.convert("1")):
                data = io.BytesIO()
                with suppress(OSError, KeyError, ValueError):
                    picture.save(data, kind, **each)
                    seeds.append(data.getvalue())
    return seeds


def _read_picture(data: bytes) -> None:
    with suppress(PictureError):
        picture_size(data)
    models.Preprocessing(resize=8, crop=8)(open_picture(data, max_pixels=4_000_000))


def _checkpoints() -> list[bytes]:
    tensors = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2, dtype=torch.float16)}
    seeds = [b".safetensors" + save(tensors)]
    for content in (tensors, {"state_dict": tensors, "epoch": 3, "model_ema": tensors}):
        for old in (True, False):
            data = io.BytesIO()
            torch.save(content, data, _use_new_zipfile_serialization=not old)
            seeds.append(b".pth\0" + data.getvalue())
    return seeds


def _read_checkpoint(data: bytes) -> None:
    suffix = ".safetensors" if data.startswith(b".safetensors") else ".pth"
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data.removeprefix(b".safetensors").removeprefix(b".pth\0"))
        file.flush()
        read_checkpoint(Path(file.name))


def _archives() -> list[bytes]:
    picture = PPMS["grey"]
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.pgm", "b/2.pgm", "b/\u00e4.pgm"):
            archive.writestr(name, picture)
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a/1.pgm", "b/" + "long" * 40 + ".pgm"):
            entry = tarfile.TarInfo(name)
            entry.size = len(picture)
            archive.addfile(entry, io.BytesIO(picture))
    return [zipped.getvalue(), tarred.getvalue()]


def _read_archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.zip" if data.startswith(b"PK") else "a.tar")
        path.write_bytes(data)
        dataset = open_dataset(path)
        for index in range(min(3, len(dataset))):
            with suppress(DatasetError):
                dataset.picture(index)


def _cards() -> list[bytes]:
    card = {
        "architecture": "resnet_mini",
        "options": {"widths": [4, 4, 8], "blocks": 1},
        "classes": ["a", "b"],
        "preprocessing": {"resize": 32, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "clean_accuracy": 0.5,
    }
    return [json.dumps(card).encode(), b"[1e999]", b'{"classes": ' + b"[" * 50 + b"]" * 50 + b"}"]


def _read_card(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(data)
        card = models.Checkpoint("a", path.with_suffix(".pth")).card()
        models.ModelCard.model_validate_json(card.model_dump_json())


def targets() -> dict[str, Target]:
    """Readers by name, with seeds made here."""
    return {
        "picture": Target(_read_picture, (PictureError,), _pictures()),
        "checkpoint": Target(_read_checkpoint, (models.CheckpointError,), _checkpoints()),
        "archive": Target(_read_archive, (DatasetError,), _archives()),
        "card": Target(_read_card, (models.CheckpointError,), _cards()),
    }


def damaged(data: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    """Change, insert, remove, repeat or swap bytes in a few places."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        at = generator.randrange(len(changed) + 1)
        length = generator.choice((1, 1, 2, 4, 16, 64))
        match generator.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([generator.randrange(256)])
            case 1:
                new = generator.choice(_INTERESTING)
                changed[at : at + len(new)] = new
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * generator.choice((1, 2, 50))
            case 4:
                changed[at : at + 1] = bytes([changed[at] ^ 1 << generator.randrange(8)]) if at < len(changed) else b""
            case 5:
                other = generator.choice(others)
                start = generator.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
            case _ if generator.random() < 0.2:
                del changed[at:]
            case _:
                pass
    return bytes(changed)


def fuzz(target: Target, seconds: float, seed: int) -> int:
    """Try damaged files for some time, and return how many.

    Raises:
        AssertionError: the reader raised what it may not, or took long; the message has the bytes.
    """
    generator, end, cases = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = damaged(generator.choice(target.seeds), generator, target.seeds)
        began = time.thread_time()
        try:
            target.read(data)
        except target.refusals:
            pass
        except Exception as error:
            raise AssertionError(f"{traceback.format_exc()}\nfor {data!r}") from error
        if (took_s := time.thread_time() - began) > SLOW_S:
            raise AssertionError(f"{took_s:.1f} s for {data!r}")
        cases += 1
    return cases


def main() -> int:
    """Try every reader for the given time; returns 1 if one was surprised."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed, surprised = int(time.time()), 0
    for name, target in targets().items():
        try:
            print(f"{name}: {fuzz(target, seconds, seed)} cases, nothing unhandled (seed {seed})")
        except AssertionError as error:
            surprised = 1
            print(f"{name}: unhandled (seed {seed})\n{error}")
    return surprised


if __name__ == "__main__":
    sys.exit(main())
