"""Data sets added over HTTP: published whole or not at all."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.problems import Problem
from service.settings import Settings
from tests.server import Server, serving

ADMIN, OTHER = {"X-API-Key": "admin"}, {"X-API-Key": "other"}


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a data folder of its own, a low limit, and an admin key."""
    changed = {
        "data_dir": tmp_path_factory.mktemp("own"),
        "max_dataset_bytes": 2**20,
        "api_keys": frozenset({"other"}),
        "admin_keys": frozenset({"admin"}),
    }
    with serving(settings.model_copy(update=changed)) as running:
        yield running


def send(own: Server, data: bytes, file: str = "new.zip", key: dict[str, str] = ADMIN, **form: str) -> httpx.Response:
    return own.http.post("/v1/datasets", files={"file": (file, data)}, data=form, headers=key)


def problem(answer: httpx.Response, status: HTTPStatus) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate(answer.json()).model_dump()


def lying(own: Server) -> set[str]:
    store = own.service.settings.data_dir / "datasets"
    return {path.name for path in store.iterdir()} if store.exists() else set()


@pytest.mark.parametrize("file", ["new.tar.gz", "new.tgz", "new.tar"])
def test_a_compressed_tar_is_refused_with_the_way_out(own: Server, file: str) -> None:
    said = problem(send(own, gzip.compress(b"x"), file), HTTPStatus.UNPROCESSABLE_ENTITY)["detail"]
    assert said.endswith("it is compressed: gunzip it first")


def test_an_upload_can_be_evaluated_on_at_once(own: Server, shapes_zip: Path) -> None:
    answer = send(own, shapes_zip.read_bytes(), name="uploaded")
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    assert (answer.json()["name"], answer.json()["images"]) == ("uploaded", 33)
    assert (own.service.settings.data_dir / "datasets/uploaded.zip").read_bytes() == shapes_zip.read_bytes()
    assert "uploaded" in {each["name"] for each in own.http.get("/v1/datasets", headers=OTHER).json()}
    body = {"models": ["tiny"], "dataset": "uploaded", "images": 3}
    assert own.http.post("/v1/evaluations", json=body, headers=OTHER).status_code == HTTPStatus.ACCEPTED
    before = lying(own)
    for file in ("other.zip", "other.tar"):
        refused = problem(send(own, shapes_zip.read_bytes(), file, name="uploaded"), HTTPStatus.CONFLICT)
        assert "there is a data set 'uploaded' already" in refused["detail"]
    assert lying(own) == before


def test_the_name_is_the_files_if_none_is_given(own: Server, shapes_zip: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(shapes_zip) as source, tarfile.open(fileobj=packed, mode="w") as archive:
        for name in source.namelist():
            entry = tarfile.TarInfo(name)
            entry.size = source.getinfo(name).file_size
            archive.addfile(entry, source.open(name))
    answer = send(own, packed.getvalue(), "packed.tar")
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    assert (answer.json()["name"], answer.json()["classes"]) == ("packed", ["disc", "square", "stripes"])


def empty_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("README.txt", "hello")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "file", "name", "said"),
    [
        (b"junk", "new.zip", "new", "new.zip is not a readable zip file"),
        (b"junk" * 300, "new.tar", "new", "new.tar is not a readable tar file"),
        (empty_zip(), "new.zip", "new", "expected one folder of pictures per class"),
        (empty_zip(), "new.tar.gz", "new", "must end in one of .zip, .tar"),
        (empty_zip(), "new.zip", "../out", "'../out' is no name of a data set"),
        (empty_zip(), "new.zip", ".hidden", "'.hidden' is no name of a data set"),
        (empty_zip(), "new.zip", "a.zip", "'a.zip' is no name of a data set"),
    ],
)
def test_what_is_no_data_set_is_refused(own: Server, data: bytes, file: str, name: str, said: str) -> None:
    before = lying(own)
    assert said in problem(send(own, data, file, name=name), HTTPStatus.UNPROCESSABLE_ENTITY)["detail"]
    assert lying(own) == before


def test_who_may_and_how_much(own: Server, shapes_zip: Path) -> None:
    before = lying(own)
    problem(send(own, shapes_zip.read_bytes(), key=OTHER), HTTPStatus.FORBIDDEN)
    problem(send(own, bytes(3 * 2**20)), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    problem(own.http.post("/v1/datasets", json={"name": "x"}, headers=ADMIN), HTTPStatus.UNPROCESSABLE_ENTITY)
    problem(own.http.post("/v1/datasets", files={"name": (None, "x")}, headers=ADMIN), HTTPStatus.UNPROCESSABLE_ENTITY)
    assert lying(own) == before
