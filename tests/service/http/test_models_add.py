"""Checkpoints added over HTTP and on the command line: questions, refusals, and models that work at once."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

import cli.main
import models
from service.http.bodies.file_uploads import LONGEST_FIELD_BYTES
from service.http.problems import Problem
from service.http.schemas import AddedModel, OpenQuestions
from service.settings import Settings
from tests.conftest import CLASSES, TINY_OPTIONS, picture_bytes, shape_picture
from tests.models.graphs import Crashes, save
from tests.models.trap import Trap
from tests.server import Server, serving
from tests.service.pictures import DISC, URL, labels

PICTURES = {"resize": 32, "crop": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
CARD = {"classes": list(CLASSES), "preprocessing": PICTURES, "options": {"strides": [1, 2, 2]}, "training": "by hand"}


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a store of its own and a low limit for checkpoints; another folder lies beside the store."""
    folder = tmp_path_factory.mktemp("own")
    changed = {"data_dir": folder / "data", "model_dirs": (folder / "shared",), "max_checkpoint_bytes": 4 * 2**20}
    (folder / "shared" / "sub").mkdir(parents=True)
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.fixture(scope="module")
def store(own: Server) -> Path:
    path = own.service.catalog.store
    assert path is not None
    return path


@pytest.fixture
def tiny(tmp_path: Path, trained_network: torch.nn.Module) -> Path:
    path = tmp_path / "my.tiny.safetensors"
    save_file(trained_network.state_dict(), path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file of a network with relative positions."""
    path = tmp_path / "other.pth"
    torch.save({"state_dict": models.create("san_mini_pairwise", num_classes=3).state_dict(), "epoch": 9}, path)
    return path


def send(http: httpx.Client, path: Path, **fields: str) -> httpx.Response:
    with path.open("rb") as file:
        return http.post("/v1/models", files={"file": (path.name, file)}, data=fields)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    Problem.model_validate(answer.json())
    return answer.json()


def left_over(store: Path) -> list[str]:
    """What lies in the store beside models."""
    names = {path.stem for path in store.glob("*.json")}
    return [path.name for path in store.iterdir() if path.stem not in names]


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


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `withstand models add` in this process; returns status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["withstand", "models", "add", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main.main()
            raise SystemExit(0)
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


def test_the_command_adds_a_model(run: Run, tiny: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"preprocessing": PICTURES}))
    more = (
        "--card",
        card,
        "--set",
        "classes=disc,square,stripes",
        "--set",
        "options.strides=[1,2,2]",
        "--data-dir",
        tmp_path,
    )
    status, out, err = run(tiny, "--name", "mine", *more)
    assert (status, err) == (0, "")
    assert out.startswith("added mine: resnet_mini {'widths': [4, 4, 8], 'blocks': 1}\n")
    assert "assumed" not in out
    assert models.load("mine", folders=[tmp_path / "models"]).card.classes == CLASSES
    status, out, err = run(tiny, "--name", "mine", "--yes", "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    assert "there is a model 'mine' already" in err


def test_a_folder_of_the_hub_is_added_under_its_name(run: Run, own: Server, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "of.hub"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(tiny.read_bytes())
    (folder / "config.json").write_text('{"id2label": {"0": "x", "1": "y", "2": "z"}}')
    status, out, err = run(folder, "--yes", "--data-dir", tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("added of.hub: resnet_mini")
    assert models.load("of.hub", folders=[tmp_path / "models"]).card.classes == ("x", "y", "z")
    status, out, _ = run(folder, "--yes", "--url", own.url)
    assert status == 0
    assert out.startswith("added of.hub: resnet_mini")
    assert own.http.get("/v1/models/of.hub").json()["classes"] == ["x", "y", "z"]
    assert left_over(own.service.settings.data_dir / "models") == []
    (folder / "config.json").unlink()
    status, _, err = run(folder, "--name", "bare", "--data-dir", tmp_path)
    assert status == 2
    assert "needs config.json" in err


def test_lists_of_numbers_are_set_with_commas(run: Run, tiny: Path, tmp_path: Path) -> None:
    answers = ("preprocessing.mean=0,0.5,1", "preprocessing.std=[1,1,1]", "options.strides=1,2,2", "training=1 a, 2 b")
    flags = [part for answer in answers for part in ("--set", answer)]
    status, _, err = run(tiny, "--name", "mine", "--yes", *flags, "--data-dir", tmp_path)
    assert (status, err) == (0, "")
    card = models.load("mine", folders=[tmp_path / "models"]).card
    assert (card.preprocessing.mean, card.preprocessing.std, card.training) == ((0, 0.5, 1), (1, 1, 1), "1 a, 2 b")


def test_the_command_prints_questions_and_ends_with_2(run: Run, other: Path, tmp_path: Path) -> None:
    status, out, err = run(other, "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    for text in ("options.footprints", "[3, 5, 5]", "preprocessing.crop", "class_0 to class_2", "--yes"):
        assert text in err
    status, out, err = run(other, "--data-dir", tmp_path, "--json")
    assert status == 2
    asked = OpenQuestions.model_validate_json(out)
    card = tmp_path / "card.json"
    card.write_text(asked.card.model_dump_json())
    status, out, _ = run(other, "--data-dir", tmp_path, "--json", "--card", card)
    assert status == 0
    assert AddedModel.model_validate_json(out).assumed == []


def test_the_command_speaks_to_a_service(run: Run, own: Server, other: Path) -> None:
    status, _, err = run(other, "--url", own.url, "--name", "sent")
    assert status == 2
    assert "options.footprints" in err
    status, out, _ = run(other, "--url", own.url, "--name", "sent", "--yes")
    assert status == 0
    assert "assumed: options.footprints = [3, 5, 5]" in out
    assert own.http.get("/v1/models/sent").status_code == 200
    status, out, err = run(other, "--url", own.url, "--name", "sent", "--yes")
    assert (status, out) == (2, "")
    assert "409: name: there is a model 'sent' already" in err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--set", "classes"], "--set needs FIELD=VALUE, got 'classes'"),
        (["--set", "classes=a,b"], "classes: 2 names given"),
        (["--set", "classes=a,b,c", "--set", "classes.x=3"], "classes has no fields"),
        (["--set", "preprocessing.crop=big"], "preprocessing.crop"),
        (["--set", "preprocessing.mean=123.675,116.28,103.53", "--yes"], "is not on the [0, 1] scale of pixels"),
        (["--name", "../x", "--yes"], "is no name of a model"),
        (["--card", "missing.json"], "missing.json"),
    ],
    ids=str,
)
def test_the_command_refuses_what_is_wrong(
    run: Run, tiny: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    status, out, err = run(tiny, *arguments, "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    assert match in err
    assert "Traceback" not in err


def test_the_help_of_add_states_every_default() -> None:
    command = cli.main.load_command("models").commands["add"]
    for parameter in command.params:
        if parameter.name != "help":
            record = parameter.get_help_record(typer.Context(command))
            assert record is not None, parameter.name
            assert "[default: " in record[1] or "[required]" in record[1] or "default: " in record[1], record


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
