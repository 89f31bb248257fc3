"""A graph in a process of its own answers as it would here, and harms nobody else."""

import gc
import time
from pathlib import Path

import pytest
import torch

import models
from models import CheckpointError, graph_process
from models.graph_process import GraphError, GraphProcess
from models.opaque import OpaqueError, check_opaque, load_opaque
from tests.models.graphs import Crashes, Loops, save
from tests.models.test_opaque import BAD, CARD, FILES, network, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.timeout(120),
]
BRIGHT, DARK = torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_process, "RUN_LIMIT_S", 2.0)


@pytest.mark.parametrize("kind", [pytest.param("scripted", marks=pytest.mark.thorough), "exported"])
def test_it_answers_as_the_network_does(kind: str, tmp_path: Path) -> None:
    architecture, file, write = FILES[kind]
    net = network()
    write(tmp_path / file, net)
    card = CARD | {"architecture": architecture}
    added = models.add(tmp_path / file, tmp_path / "store", "mine", card, accept_likely=True, isolated=True)
    assert added.parameters == sum(each.numel() for each in net.parameters())
    assert models.verify(added.checkpoint, isolated=True) == added.card
    classifier = models.load("mine", folders=[tmp_path / "store"], isolated=True)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(classifier(images), net((images - 0.5) / 0.25), atol=1e-5, rtol=1e-5)
        assert models.fold(classifier)(images[:2]).shape == (2, 4)


def test_what_is_wrong_with_a_graph_is_said_as_here(tmp_path: Path) -> None:
    kind, message = BAD["gives a pair"]
    script(tmp_path / "pair.pt", kind())
    with pytest.raises(OpaqueError, match=message):
        check_opaque(load_opaque("torchscript", tmp_path / "pair.pt", isolated=True), 32)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(OpaqueError, match="not a readable torchscript file"):
        load_opaque("torchscript", tmp_path / "text.pt", isolated=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Crashes, r"ended \(exit code -\d+\): the graph crashed"), (Loops, "ran for more than 2 s")],
)
def test_a_graph_that_harms_its_process_is_not_added(kind: type[Crashes | Loops], message: str, tmp_path: Path) -> None:
    path = save(kind(above=-9.0), tmp_path / "bad.pt")
    card = CARD | {"architecture": "torchscript", "classes": list("abc")}
    with pytest.raises(CheckpointError, match=message):
        models.add(path, tmp_path / "store", "mine", card, accept_likely=True, isolated=True)


@pytest.mark.parametrize(
    ("kind", "message", "harms", "pause"),
    [
        (Crashes, "the graph crashed", 1, "1(19|20)"),
        pytest.param(Loops, "ran for more than 2 s", 20, "3(599|600)", marks=pytest.mark.thorough),
    ],
)
def test_a_graph_that_harms_its_process_later_pauses_for_twice_as_long_each_time(
    kind: type[Crashes | Loops], message: str, harms: int, pause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for an hour at most."""
    loaded = load_opaque("torchscript", save(kind(), tmp_path / "a.pt"), isolated=True)
    assert loaded(DARK).tolist() == [[0, 0, 0]]
    began = time.monotonic()
    with pytest.raises(GraphError, match=message):
        loaded(BRIGHT)
    with pytest.raises(GraphError, match=r"once by now, and is not run for another (59|60) s"):
        loaded(DARK)
    assert time.monotonic() - began < 10
    monkeypatch.setattr(loaded.graph, "_resumes_at", 0.0)
    assert loaded(DARK).tolist() == [[0, 0, 0]]
    monkeypatch.setattr(loaded.graph, "_harms", harms)
    with pytest.raises(GraphError, match=message):
        loaded(BRIGHT)
    refused = time.monotonic()
    with pytest.raises(GraphError, match=rf"{harms + 1} times by now, and is not run for another {pause} s"):
        loaded(DARK)
    assert time.monotonic() - refused < 0.5, "at once, so that nobody waits for it"


def test_its_process_ends_with_it(tmp_path: Path) -> None:
    loaded = load_opaque("torchscript", save(Loops(), tmp_path / "a.pt"), isolated=True)
    assert isinstance(loaded.graph, GraphProcess)
    process = loaded.graph._process
    del loaded
    gc.collect()
    process.join(10)
    assert not process.is_alive()
