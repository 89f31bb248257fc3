"""Checkpoints of every form, and files that are broken or hostile."""

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from common import UnknownNameError, file_sha256
from models import CheckpointError, find_checkpoints, load, read_state_dict
from tests.models.trap import Trap

OPTIONS = {"widths": [8, 8, 16], "blocks": 1}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.create("resnet_mini", num_classes=3, **OPTIONS).eval()


def card(**changed: object) -> dict[str, Any]:
    preprocessing = {"resize": 32, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    facts = {
        "architecture": "resnet_mini",
        "options": OPTIONS,
        "classes": ["a", "b", "c"],
        "preprocessing": preprocessing,
    }
    return facts | changed


def put(folder: Path, content: object, *, file: str = "tiny.pth", **facts: object) -> Path:
    """Write a checkpoint and its card."""
    folder.mkdir(exist_ok=True)
    path = folder / file
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    path.with_suffix(".json").write_text(json.dumps(card(**facts)))
    return path


def without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def lightning(tensors: dict[str, Tensor], prefix: str) -> dict[str, object]:
    """What a Lightning trainer writes."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"{prefix}{key}": value for key, value in tensors.items()},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    }


def averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors as torch.optim.swa_utils.AveragedModel does."""
    return {"n_averaged": torch.tensor(9), **{f"module.{key}": value for key, value in tensors.items()}}


def zeros(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in tensors.items()}


FORMS: dict[str, tuple[str, Callable[[dict[str, Tensor]], object]]] = {
    "safetensors": ("tiny.safetensors", lambda tensors: tensors),
    "bare": ("tiny.pth", lambda tensors: tensors),
    "pt": ("tiny.pt", lambda tensors: tensors),
    "under state_dict": ("tiny.pth", lambda tensors: {"state_dict": tensors, "epoch": 3, "arch": "resnet"}),
    "under model": ("tiny.pth", lambda tensors: {"model": tensors, "optimizer": {"lr": 0.1}}),
    "under model_state_dict": ("tiny.pt", lambda tensors: {"model_state_dict": tensors, "epoch": 3, "loss": 0.5}),
    "bin": ("tiny.bin", lambda tensors: tensors),
    "lightning": ("tiny.ckpt", lambda tensors: lightning(tensors, "model.")),
    "lightning and parallel": ("tiny.ckpt", lambda tensors: lightning(tensors, "net.module.")),
    "only ema": ("tiny.pth", lambda tensors: {"model_ema": averaged(tensors), "epoch": 3}),
    "plain and ema": ("tiny.pth", lambda tensors: {"state_dict": tensors, "state_dict_ema": zeros(tensors)}),
    "parallel": ("tiny.pth", lambda tensors: {f"module.{key}": value for key, value in tensors.items()}),
    "parallel under state_dict": (
        "tiny.pth",
        lambda tensors: {"state_dict": {f"module.{key}": value for key, value in tensors.items()}},
    ),
    "without batch counters": ("tiny.pth", without_counters),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_logits(form: str, network: nn.Module, tmp_path: Path) -> None:
    file, wrap = FORMS[form]
    path = put(tmp_path, wrap(dict(network.state_dict())), file=file)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network((images - 0.5) / 0.25)
    for classifier in (load(path), load("tiny", folders=[tmp_path]), load(str(path))):
        assert torch.equal(classifier(images), expected)
        assert not any(module.training for module in classifier.modules())
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
        assert classifier.card.classes == ("a", "b", "c")


def test_the_real_averaged_model_is_read(network: nn.Module, tmp_path: Path) -> None:
    state = torch.optim.swa_utils.AveragedModel(network).state_dict()
    assert load(put(tmp_path, {"model": zeros(dict(network.state_dict())), "model_ema": state}, weights="ema"))
    assert read_state_dict(tmp_path / "tiny.pth", "ema").keys() == state.keys() - {"n_averaged"}


@pytest.mark.parametrize("ema", ["model_ema", "ema_state_dict", "state_dict_ema"])
def test_the_card_says_which_of_two_kinds_of_weights_are_used(ema: str, network: nn.Module, tmp_path: Path) -> None:
    tensors = dict(network.state_dict())
    content = {"state_dict": tensors, ema: averaged(zeros(tensors))}
    for weights, expected in (("ema", 0.0), ("plain", tensors["fc.weight"]), (None, tensors["fc.weight"])):
        found = load(put(tmp_path, content, weights=weights)).network.fc.weight
        assert torch.equal(found, torch.as_tensor(expected).expand_as(found))


def test_weights_that_the_file_does_not_have_are_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights: the file has plain weights, got 'ema'"):
        load(put(tmp_path, network.state_dict(), weights="ema"))


def test_a_name_with_very_many_dots_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unexpected keys: a\.a\.a"):
        load(put(tmp_path, {"a." * 50_000 + "x": torch.zeros(1)}))


def test_the_old_format_of_pytorch_is_read(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    tensors = read_state_dict(path)
    assert all(torch.equal(tensors[key], value) for key, value in network.state_dict().items())


def test_missing_unexpected_and_misshapen_tensors_are_listed(network: nn.Module, tmp_path: Path) -> None:
    tensors = dict(network.state_dict())
    tensors["head.weight"] = tensors.pop("fc.weight")
    tensors["stem.0.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(CheckpointError) as caught:
        load(put(tmp_path, tensors))
    assert str(caught.value) == (
        "tiny.pth does not fit resnet_mini with 3 classes. missing keys: fc.weight; unexpected keys: head.weight; "
        "other shapes: stem.0.weight: file (8, 3, 5, 5), architecture (8, 3, 3, 3)"
    )


def test_long_lists_are_cut(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing keys: (\S+, ){4}\S+ and \d+ more; unexpected keys: x$"):
        load(put(tmp_path, {"x": torch.zeros(1)}))


def test_another_number_of_classes_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = put(tmp_path, network.state_dict(), classes=["a", "b"])
    with pytest.raises(
        CheckpointError, match=r"with 2 classes\. other shapes: fc.weight: file \(3, 16\), architecture \(2, 16\)"
    ):
        load(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"depth": 3}, "resnet_mini has no option depth"),
        ({"num_classes": 3}, "cannot be built with options"),
        ({"name": "resnet18"}, "cannot be built with options"),
        ({"widths": "wide"}, "cannot be built with options"),
        ({}, "does not fit resnet_mini"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(network: nn.Module, tmp_path: Path, options: dict, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load(put(tmp_path, network.state_dict(), options=options))


def test_the_hash_is_checked_before_the_file_is_read(network: nn.Module, tmp_path: Path) -> None:
    path = put(tmp_path, network.state_dict(), sha256="0" * 64)
    actual = file_sha256(path)
    with pytest.raises(CheckpointError, match=f"tiny.pth has sha256 {actual}, its card says {'0' * 64}"):
        load(path)
    path.with_suffix(".json").write_text(json.dumps(card(sha256=actual)))
    assert load(path).card.sha256 == actual
    put(tmp_path, b"no checkpoint at all", sha256="0" * 64)
    with pytest.raises(CheckpointError, match="has sha256"):
        load(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "not usable"),
        (b"{", "not usable"),
        (b"[]", "not usable"),
        (b"\xff\xfe", "not usable"),
        (json.dumps(card(architecture="resnet_mimi")).encode(), "Did you mean 'resnet_mini'"),
        (json.dumps(card(classes=[])).encode(), "classes"),
        (json.dumps(card(sha256="abc")).encode(), "sha256"),
        (json.dumps(card(clean_accuracy=93.4)).encode(), "clean_accuracy"),
        (json.dumps(card(accuracy=0.9)).encode(), "accuracy"),
    ],
)
def test_a_malformed_card_is_refused(network: nn.Module, tmp_path: Path, text: bytes, match: str) -> None:
    path = put(tmp_path, network.state_dict())
    path.with_suffix(".json").write_bytes(text)
    with pytest.raises(CheckpointError, match=match):
        load(path)


def test_a_missing_card_is_named(network: nn.Module, tmp_path: Path) -> None:
    path = put(tmp_path, network.state_dict())
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"tiny\.pth has no card: tiny\.json must lie beside it"):
        load(path)
    assert find_checkpoints([tmp_path]) == {}


def test_a_card_that_cannot_be_read_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = put(tmp_path, network.state_dict())
    path.with_suffix(".json").unlink()
    path.with_suffix(".json").mkdir()
    with pytest.raises(CheckpointError, match=r"the card tiny\.json cannot be read: Is a directory"):
        load(path)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, bare: bool, hidden: bool) -> None:
    sprung = tmp_path / "sprung"
    content = {"fc.weight": torch.zeros(1), "x": Trap(sprung)} if hidden else Trap(sprung)
    path = put(tmp_path, pickle.dumps(content, protocol=2) if bare else content)
    with pytest.raises(
        CheckpointError, match="contains more than tensors and was not read, because reading it could run code"
    ):
        load(path)
    assert not sprung.exists()
    if not hidden:
        pickle.loads(pickle.dumps(content))
        assert sprung.exists()  # the trap works


def test_a_truncated_file_is_refused(network: nn.Module, tmp_path: Path) -> None:
    for file in ("tiny.pth", "tiny.safetensors"):
        path = put(tmp_path, dict(network.state_dict()), file=file)
        whole = path.read_bytes()
        for length in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=file):
                load(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new_format", [False, True])
def test_damaged_files_end_in_one_kind_of_error(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "damaged.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=new_format)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[draw.randrange(len(whole))] = draw.choice(b"\x00.)}RtbcNqhK")
        path.write_bytes(damaged)
        try:
            assert set(map(type, read_state_dict(path).values())) == {Tensor}
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content", [b"\x80\x02.", b"\x80\x020.", b"\x80\x02X\xff", b"\x80\x02h\x07.", b"hello", b"PK\x03\x04"]
)
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.pth"):
        read_state_dict(put(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.zeros(1)], "contains a list, expected a mapping of names to tensors"),
        (torch.zeros(1), "contains a Tensor, expected"),
        ({}, "contains a dict, expected"),
        ({"state_dict": {}}, "contains a dict, expected"),
        ({"a": torch.zeros(1), "epoch": 3}, "contains values that are not tensors: 'epoch': int"),
        ({"state_dict": [1]}, "'state_dict': list"),
    ],
)
def test_anything_but_named_tensors_is_refused(tmp_path: Path, content: object, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_state_dict(put(tmp_path, content))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint file"):
            read_state_dict(path)


def test_checkpoints_are_found_by_name(network: nn.Module, tmp_path: Path) -> None:
    put(tmp_path, network.state_dict(), file="b.first.pth")
    put(tmp_path, dict(network.state_dict()), file="a.safetensors")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    (tmp_path / "notes.json").write_text("{}")
    found = find_checkpoints([tmp_path / "none", tmp_path])
    assert {name: checkpoint.path.name for name, checkpoint in found.items()} == {
        "a": "a.safetensors",
        "b.first": "b.first.pth",
    }
    assert load("b.first", folders=[tmp_path]).card.architecture == "resnet_mini"


def test_one_name_in_two_folders_is_no_model(network: nn.Module, tmp_path: Path) -> None:
    here, there = (put(tmp_path / folder, network.state_dict()) for folder in ("here", "there"))
    with pytest.raises(CheckpointError, match="two checkpoints are named 'tiny'") as caught:
        find_checkpoints([here.parent, there.parent])["tiny"].card()
    assert str(here) in str(caught.value)
    assert str(there) in str(caught.value)


def test_one_name_with_two_endings_is_no_model(network: nn.Module, tmp_path: Path) -> None:
    put(tmp_path, network.state_dict())
    put(tmp_path, dict(network.state_dict()), file="tiny.safetensors")
    with pytest.raises(CheckpointError, match="two checkpoints are named 'tiny'"):
        load("tiny", folders=[tmp_path])


@pytest.mark.parametrize("name", ["tini", "tini.pth", "../tiny.pth", "", "."])
def test_an_unknown_name_is_refused_with_a_suggestion(network: nn.Module, tmp_path: Path, name: str) -> None:
    put(tmp_path, network.state_dict())
    with pytest.raises(UnknownNameError, match=r"unknown model .*Known: tiny\."):
        load(name, folders=[tmp_path])
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny'"):
        load("tinny", folders=[tmp_path])
