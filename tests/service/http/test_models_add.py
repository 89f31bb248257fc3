"""Checkpoints added over HTTP: questions, refusals, and models that work at once."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from service.http.bodies.file_uploads import LONGEST_FIELD_BYTES
from service.http.schemas import AddedModel, OpenQuestions
from service.settings import Settings
from tests.conftest import CLASSES, TINY_OPTIONS, picture_bytes, shape_picture
from tests.models.graphs import Crashes, save
from tests.models.trap import Trap
from tests.server import Server, serving
from tests.service.adding import CARD, PICTURES, left_over, other, own, problem, send, store, tiny
from tests.service.pictures import DISC, URL, labels

__all__ = ["other", "own", "store", "tiny"]


def test_an_upload_is_a_model_at_once(own: Server, store: Path, tiny: Path) -> None:
    answer = send(own.http, tiny, card=json.dumps(CARD))
    assert answer.status_code == 201, answer.text
    added = AddedModel.model_validate(answer.json())
    assert answer.headers["location"] == "/v1/models/my.tiny" == added.links["self"]
    assert (added.name, added.card.architecture, added.card.options) == ("my.tiny", "resnet_mini", TINY_OPTIONS)
    assert (added.input_shape, added.assumed, added.card.training) == ((3, 32, 32), [], "by hand")
    assert added.macs is not None
    assert added.parameters == sum(
        each.numel() for each in models.create("resnet_mini", num_classes=3, **TINY_OPTIONS).parameters()
    )
    assert "my.tiny" in {each["name"] for each in own.http.get("/v1/models").json()}
    assert own.http.get(added.links["self"]).json()["sha256"] == added.card.sha256
    for label in range(3):
        picture = picture_bytes(shape_picture(label, np.random.default_rng(5)))
        found = own.http.post(added.links["predict"], content=picture).json()
        assert found["predictions"][0]["top"][0]["label"] == CLASSES[label]
    assert (store / tiny.name).read_bytes() == tiny.read_bytes()
    assert left_over(store) == []


def test_questions_come_back_with_a_card_that_answers_them(own: Server, store: Path, other: Path) -> None:
    body = problem(send(own.http, other, name="asked", card='{"classes": ["a", "b", "c"]}'), 422)
    asked = OpenQuestions.model_validate(body)
    fields = [each.field for each in asked.questions]
    assert fields[:2] == ["options.footprints", "options.relation"]
    assert "classes" not in fields
    assert {each["field"] for each in body["errors"]} == {f"card.{field}" for field in fields}
    assert left_over(store) == []
    answer = send(own.http, other, name="asked", card=asked.card.model_dump_json())
    assert answer.status_code == 201, answer.text
    assert answer.json()["assumed"] == []
    assert answer.json()["training_facts"] == {"epoch": 9}
    answer = send(own.http, other, name="accepted", accept_likely="true")
    assert answer.status_code == 201, answer.text
    assert [each["field"] for each in answer.json()["assumed"]] == [*fields, "classes"]


def test_a_file_that_fits_nothing_is_compared_with_the_nearest(own: Server, tmp_path: Path) -> None:
    tensors = models.create("resnet_mini").state_dict()
    tensors["neck.weight"] = tensors.pop("fc.weight")
    torch.save(tensors, tmp_path / "odd.pth")
    body = problem(send(own.http, tmp_path / "odd.pth"), 422)
    assert (body["nearest"], body["missing"], body["unexpected"]) == ("resnet_mini", ["fc.weight"], ["neck.weight"])
    assert 0.9 < body["share"] < 1


def test_names_are_taken_once_in_all_folders(own: Server, store: Path, tiny: Path) -> None:
    assert send(own.http, tiny, name="once", accept_likely="true").status_code == 201
    before = (store / "once.safetensors").stat()
    for name in ("once", "resnet_mini.fashion_mnist"):
        body = problem(send(own.http, tiny, name=name, accept_likely="true"), 409)
        assert body["errors"][0]["field"] == "name"
    assert (store / "once.safetensors").stat() == before
    assert left_over(store) == []


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a b", "x" * 129, "a/b", "x.pth", "x\0", "", "é"])
def test_a_name_is_never_a_path(own: Server, store: Path, tiny: Path, name: str) -> None:
    problem(send(own.http, tiny, name=name, accept_likely="true"), 422)
    problem(own.http.post("/v1/models", json={"path": "x.pth", "name": name}), 422)
    assert left_over(store) == []


def test_a_file_in_a_model_folder_is_added_by_its_path(own: Server, store: Path, tiny: Path) -> None:
    shared = own.service.settings.model_dirs[0]
    (shared / "sub" / "placed.safetensors").write_bytes(tiny.read_bytes())
    answer = own.http.post("/v1/models", json={"path": "sub/placed.safetensors", "card": CARD})
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "placed"
    (store / "direct.safetensors").write_bytes(tiny.read_bytes())
    answer = own.http.post("/v1/models", json={"path": "direct.safetensors", "accept_likely": True})
    assert answer.status_code == 201, answer.text
    assert left_over(store) == []


@pytest.mark.parametrize(
    "path",
    [
        "../secret.pth",
        "sub/../../secret.pth",
        "sub/../here.safetensors",
        "/etc/passwd",
        "link.pth",
        "out/secret.pth",
        "none.pth",
        "sub",
        "a\0.pth",
        "x" * 999,
    ],
)
def test_a_path_never_leads_out_of_the_folders(own: Server, tiny: Path, path: str) -> None:
    shared = own.service.settings.model_dirs[0]
    secret = shared.parent / "secret.pth"
    for file in (secret, shared / "here.safetensors"):
        file.write_bytes(tiny.read_bytes())
    for name, target in (("link.pth", secret), ("out", shared.parent)):
        if not (shared / name).is_symlink():
            (shared / name).symlink_to(target)
    body = problem(own.http.post("/v1/models", json={"path": path, "accept_likely": True}), 422)
    assert body["detail"].startswith("path: ")


def test_a_body_of_another_shape_is_refused(own: Server) -> None:
    for body in ({}, {"path": 3}, {"path": "a.pth", "colour": 1}, {"path": "a.pth", "card": []}, [], 3):
        problem(own.http.post("/v1/models", json=body), 422)
    problem(own.http.post("/v1/models", content=b"\x80", headers={"Content-Type": "application/octet-stream"}), 422)


def test_what_is_too_large_is_refused(own: Server, store: Path, tmp_path: Path, tiny: Path) -> None:
    large = tmp_path / "large.pth"
    large.write_bytes(bytes(6 * 2**20))
    problem(send(own.http, large), 413)

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pth"\r\n\r\n'
        for _ in range(100):
            yield bytes(2**20)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(own.http.post("/v1/models", content=endless(), headers=form), 413)
    problem(send(own.http, tiny, card="x" * (LONGEST_FIELD_BYTES + 1)), 413)
    problem(own.http.post("/v1/models", json={"path": "x" * 2**21}), 413)
    problem(own.http.post("/v1/models", files=[("file", ("a.pth", b"x"))], data={f"f{i}": "x" for i in range(20)}), 413)
    assert left_over(store) == []


BROKEN: dict[str, tuple[str, bytes, int]] = {
    "no boundary": ("multipart/form-data", b"--x--", 400),
    "another boundary": ("multipart/form-data; boundary=y", b"--x\r\n\r\n--x--", 400),
    "cut off": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pth"\r\n\r\nabc',
        400,
    ),
    "empty": ("multipart/form-data; boundary=x", b"", 400),
    "no file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n--x--\r\n',
        422,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_forms_are_refused(own: Server, store: Path, case: str) -> None:
    kind, body, status = BROKEN[case]
    problem(own.http.post("/v1/models", content=body, headers={"Content-Type": kind}), status)
    assert left_over(store) == []


def test_hostile_files_are_refused_and_run_nothing(own: Server, store: Path, tmp_path: Path, tiny: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"fc.weight": torch.zeros(1), "x": Trap(trap)}, tmp_path / "code.pth")
    torch.save({"fc.weight": torch.zeros(1).expand(2**30, 2**9)}, tmp_path / "vast.pth")
    (tmp_path / "cut.safetensors").write_bytes(tiny.read_bytes()[:1000])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "tool.exe").write_bytes(b"MZ")
    (tmp_path / "net.onnx").write_bytes(b"x")
    for name, match in (
        ("code.pth", "reading it could run code"),
        ("vast.pth", "fewer elements than that"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("text.pt", "not a readable PyTorch file"),
        ("tool.exe", "must end in one of .safetensors, .pth, .pt, .bin, .ckpt, .pt2"),
        ("net.onnx", "onnx2torch.convert"),
    ):
        assert match in problem(send(own.http, tmp_path / name, accept_likely="true"), 422)["detail"]
    assert not trap.exists()
    assert left_over(store) == []
    assert "another" not in {each["name"] for each in own.http.get("/v1/models").json()}


def test_files_with_their_own_graph_need_permission(own: Server, tiny: Path) -> None:
    for architecture in models.OPAQUE:
        card = json.dumps({"architecture": architecture})
        assert "WITHSTAND_ALLOW_GRAPHS=true" in problem(send(own.http, tiny, card=card), 403)["detail"]


def test_adding_needs_the_key(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    changed = {"data_dir": tmp_path / "data", "api_keys": frozenset({"secret"})}
    with serving(settings.model_copy(update=changed)) as server:
        problem(send(server.http, tiny, accept_likely="true"), 401)
        problem(server.http.post("/v1/models", json={"path": "x.pth"}), 401)
        assert list((tmp_path / "data").glob("models/*")) == []
        server.http.headers["X-API-Key"] = "secret"
        assert send(server.http, tiny, accept_likely="true").status_code == 201


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_graph_that_crashes_is_an_error_of_its_model_alone(settings: Settings, tmp_path: Path) -> None:
    pictures = PICTURES | {"mean": [0.0] * 3, "std": [1.0] * 3}
    card = json.dumps({"architecture": "torchscript", "classes": list("abc"), "preprocessing": pictures})
    always, later = save(Crashes(above=-9.0), tmp_path / "always.pt"), save(Crashes(), tmp_path / "later.pt")
    changed = {"data_dir": tmp_path / "data", "allow_graphs": True}
    with serving(settings.model_copy(update=changed)) as server:
        http = server.http
        assert "the graph crashed" in problem(send(http, always, card=card), 422)["detail"]
        assert send(http, later, card=card).status_code == 201
        white = picture_bytes(Image.new("RGB", (32, 32), "white"))
        assert http.post("/v1/models/later/predict", content=DISC).status_code == 200
        assert "the graph crashed" in problem(http.post("/v1/models/later/predict", content=white), 422)["detail"]
        assert labels(http.post(URL, content=DISC)) == ["disc"]
        assert http.get("/readyz").status_code == 200
