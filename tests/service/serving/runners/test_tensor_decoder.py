"""JPEGs decoded with torchvision: on the CPU here, with nvJPEG where there is a GPU."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import models
from common.pictures import open_picture, picture_pixels
from evaluation import Catalog
from models import CheckpointError
from service.serving.admission import admit, compare_decoders
from service.serving.deployments import Measured, ServingSettings
from service.serving.devices import Gpu, device_of
from service.serving.loading import load_served
from service.serving.queue import Picture
from service.serving.runners.tensor_decoder import TensorDecoder
from tests.common.test_jpeg import jpeg
from tests.service.pictures import DISC, SQUARE, STRIPES
from tests.service.serving.predictions import Find

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")

SMALL = models.Preprocessing(resize=32, crop=32)
NVJPEG = ServingSettings(decoder="nvjpeg")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs nvJPEG")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def turned(data: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    written = io.BytesIO()
    Image.open(io.BytesIO(data)).save(written, "JPEG", exif=exif)
    return written.getvalue()


def grey() -> bytes:
    written = io.BytesIO()
    Image.new("L", (64, 48), 99).save(written, "JPEG")
    return written.getvalue()


def as_jpeg(data: bytes) -> bytes:
    written = io.BytesIO()
    open_picture(data).convert("RGB").save(written, "JPEG", quality=95)
    return written.getvalue()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"quality": 5}], ids=str
)
def test_usual_jpegs_get_nearly_the_pixels_of_evaluations(device: str, options: dict[str, Any]) -> None:
    data = jpeg(333, 251, **options)
    found = TensorDecoder(device)(data, SMALL)
    assert found is not None
    assert found.device.type == "cpu"
    difference = (found.short() - torch.from_numpy(SMALL.pixels(open_picture(data))).short()).abs()
    assert difference.max() <= (1 if device == "cpu" else 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: DISC,
        lambda: jpeg(64, 48, progressive=True),
        lambda: jpeg(64, 48, keep_rgb=True),
        lambda: turned(jpeg(64, 48)),
        lambda: jpeg(64, 48)[:-2],
        grey,
    ],
    ids=["PNG", "progressive", "RGB", "turned", "cut short", "grey"],
)
def test_unusual_files_are_left_to_the_other_decoder(device: str, make: Callable[[], bytes]) -> None:
    found = TensorDecoder(device)(make(), SMALL)
    assert found is None


def test_very_large_pictures_are_left_to_the_other_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.serving.runners.tensor_decoder.MOST_PIXELS", 64 * 48 - 1)
    assert TensorDecoder("cpu")(jpeg(64, 48), SMALL) is None
    assert TensorDecoder("cpu")(jpeg(48, 48), SMALL) is not None


def test_agreement_is_that_of_the_answers(catalog: Catalog, find: Find) -> None:
    classifier = load_served(catalog, find("tiny"), "cpu")
    files = [*map(as_jpeg, (DISC, SQUARE, STRIPES)), jpeg(64, 48, progressive=True)]
    found = compare_decoders(classifier, "shapes", files, TensorDecoder("cpu"))
    assert found is not None
    assert (found.dataset, found.agreement.count, found.agreement.n) == ("shapes", 3, 3), "one was not decoded"
    assert 0 <= found.largest_difference < 0.1


def test_a_decoder_that_changes_answers_is_seen(catalog: Catalog, find: Find) -> None:
    class Inverting(TensorDecoder):
        def __call__(self, data: bytes, preprocessing: models.Preprocessing) -> torch.Tensor | None:
            image = super().__call__(data, preprocessing)
            return None if image is None else 255 - image

    classifier = load_served(catalog, find("tiny"), "cpu")
    files = [*map(as_jpeg, (DISC, SQUARE, STRIPES))]
    found = compare_decoders(classifier, None, files, Inverting("cpu"))
    assert found is not None
    assert found.agreement.value < 1
    assert found.largest_difference > 0.5
    assert compare_decoders(classifier, None, [DISC], TensorDecoder("cpu")) is None


def test_without_a_gpu_nvjpeg_is_an_error(catalog: Catalog, find: Find) -> None:
    asked = replace(find("tiny"), settings=NVJPEG)
    for use in (admit, load_served):
        with pytest.raises(
            CheckpointError, match=r"settings\.decoder: nvjpeg decodes on an NVIDIA GPU, but tiny is served on cpu"
        ):
            use(catalog, asked, "cpu")
    assert admit(catalog, find("tiny"), "cpu") == Measured()


def test_pictures_are_prepared_as_the_settings_say(find: Find) -> None:
    data = jpeg(64, 48)
    picture = Picture(lambda: torch.zeros(1), picture_pixels(data), data)
    tiny = find("tiny")
    asked = replace(tiny, settings=NVJPEG)
    assert device_of("cpu").prepare(asked, picture) is picture.prepare
    assert Gpu("cuda").prepare(tiny, picture) is picture.prepare
    broken = replace(picture, pixels=0)
    assert Gpu("cuda").prepare(asked, broken) is picture.prepare, "whose error says what is wrong"

    class HereGpu(Gpu):
        _decoder = TensorDecoder("cpu")

    own = HereGpu("cuda").prepare(asked, picture)()
    assert own.shape == (3, 32, 32)
    unusual = replace(picture, data=DISC)
    assert torch.equal(HereGpu("cuda").prepare(asked, unusual)(), torch.zeros(1))


@needs_gpu
def test_nvjpeg_is_admitted_by_its_agreement(catalog: Catalog, find: Find) -> None:
    measured = admit(catalog, replace(find("tiny"), settings=NVJPEG), "cuda:0").decoder_agreement
    assert measured is not None
    assert measured.dataset == "shapes"
    assert measured.agreement.value >= 0.98
