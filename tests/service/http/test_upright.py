"""A photo lies upright however it comes in: a command, a data set or a request."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import cli.main
from common.pictures import open_picture
from evaluation import Catalog, open_dataset
from service.serving.predictions import Predictions
from tests.conftest import picture_bytes, shape_picture

SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""Where the first stored row and the first stored column lie, by EXIF's orientation, from the standard."""

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}
BLOCK = 16


def blocks(mode: str) -> np.ndarray:
    """Two rows of three blocks, all different, of the size of a JPEG's own blocks or twice that."""
    cells = np.arange(1, 7, dtype=np.uint8).reshape(2, 3) * 40
    grey = cells.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return grey if mode == "L" else np.stack([grey, 255 - grey, grey // 2], -1)


def stored(upright: np.ndarray, orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    """A file as a camera held in that orientation writes it."""
    pixels = upright[:: -1 if "bottom" in SIDES[orientation] else 1, :: -1 if "right" in SIDES[orientation] else 1]
    if SIDES[orientation][0] in {"left", "right"}:
        pixels = pixels.swapaxes(0, 1)
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, kind, exif=exif, **options)
    return data.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", SIDES)
def test_every_orientation_of_every_format(orientation: int, kind: str, mode: str) -> None:
    upright = blocks(mode)
    opened = np.asarray(open_picture(stored(upright, orientation, kind, **FORMATS[kind])).convert(mode))
    assert opened.shape == upright.shape
    assert np.abs(opened.astype(int) - upright).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", SIDES)
def test_a_command_a_data_set_and_a_request_see_the_same_pixels(
    orientation: int,
    http: httpx.Client,
    catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = np.asarray(shape_picture(2, np.random.default_rng(3))).copy()
    half[:9] = 0  # a dark band on top makes it matter where up is
    upright, turned = picture_bytes(Image.fromarray(half)), stored(half, orientation)
    file = tmp_path / "set" / "cat" / "photo.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(turned)
    assert np.array_equal(np.asarray(open_dataset(tmp_path / "set").picture(0)), half)
    answers = [http.post("/v1/models/tiny/predict", content=each).json() for each in (turned, upright)]
    assert answers[0]["predictions"][0]["top"] == answers[1]["predictions"][0]["top"]
    arguments = ["withstand", "predict", "tiny", str(file), "--model-dir", str(catalog.model_folders[0]), "--json"]
    monkeypatch.setattr("sys.argv", [*arguments, "--device", "cpu"])
    with pytest.raises(SystemExit, match="0"):
        cli.main.main()
    by_command = Predictions.model_validate_json(capsys.readouterr().out)
    labels = {each["label"]: each["probability"] for each in answers[1]["predictions"][0]["top"]}
    assert {each.label: each.probability for each in by_command.predictions[0].top} == pytest.approx(labels, abs=1e-6)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_without_a_meaning_changes_nothing(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, orientation, SIDES[1])
    upright = blocks("L")
    assert np.array_equal(np.asarray(open_picture(stored(upright, orientation))), upright)


def test_unreadable_exif_data_does_not_make_a_picture_broken() -> None:
    upright = blocks("RGB")
    data = stored(upright, 6, "WEBP", lossless=True)
    at = data.rindex(b"\x00*")  # of the header of the EXIF data
    for broken in (data[:at] + b"\xff\xff" + data[at + 2 :], data.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_picture(broken).size == (BLOCK * 2, BLOCK * 3)


def damaged(data: bytes, kind: str, generator: np.random.Generator) -> bytes:
    """Overwrite one to four bytes of a file's EXIF data, in TIFF of its tags."""
    (header,) = (
        struct.unpack_from("<I", data, 4) if kind == "TIFF" else (max(data.rfind(b"II*\0"), data.rfind(b"MM\0*")),)
    )
    assert header > 0
    changed = bytearray(data)
    for at in generator.integers(header, header + 26, generator.integers(1, 5)):
        changed[at] = generator.integers(256)
    if (chunk := data.find(b"eXIf")) > 0:  # PNG's checksum would give the damage away
        end = chunk + 4 + int.from_bytes(data[chunk - 4 : chunk])
        changed[end : end + 4] = zlib.crc32(changed[chunk:end]).to_bytes(4)
    return bytes(changed)


def test_a_good_picture_is_answered_whatever_the_exif_data_beside_it(http: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    upright, good = blocks("RGB"), shape_picture(0, np.random.default_rng(5))
    whole = {kind: stored(upright, 6, kind, **options) for kind, options in FORMATS.items()}
    for _ in range(50):
        (png, jpeg), (webp, tiff) = (
            [damaged(whole[kind], kind, generator) for kind in kinds] for kinds in (("PNG", "JPEG"), ("WEBP", "TIFF"))
        )
        for form in ([png, picture_bytes(good), jpeg], [webp, picture_bytes(good), tiff]):
            answer = http.post("/v1/models/tiny/predict", files=[("file", each) for each in form])
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"][1]["top"][0]["label"] == "disc"
