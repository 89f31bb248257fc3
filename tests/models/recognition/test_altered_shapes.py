"""Tensors of every architecture, cut and altered at random: recognised or not, but never an error of another kind."""

import math
import random
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

import models
from models import UnrecognisedError
from models.recognition.layout import Layout
from models.recognition.proposals import Candidate
from models.registry import Family, families

Shapes = dict[str, tuple[int, ...]]
NAMES = [name for name in models.names() if "mini" in name] + ["resnet18", "se_resnet34"]
SIDES = (0, 1, 2, 3, 5, 7, 31, 64, 10**6, 2**31)
ROUNDS = 40


def drop(shapes: Shapes, name: str, draw: random.Random) -> None:
    del shapes[name]


def keep_a_few(shapes: Shapes, name: str, draw: random.Random) -> None:
    kept = {name, *draw.sample(sorted(shapes), min(len(shapes), 12))}
    for other in set(shapes) - kept:
        del shapes[other]


def cut_axes(shapes: Shapes, name: str, draw: random.Random) -> None:
    shapes[name] = shapes[name][: draw.randrange(len(shapes[name]) + 1)]


def add_an_axis(shapes: Shapes, name: str, draw: random.Random) -> None:
    shapes[name] = (*shapes[name], draw.choice(SIDES))


def change_a_side(shapes: Shapes, name: str, draw: random.Random) -> None:
    if shape := list(shapes[name]):
        shape[draw.randrange(len(shape))] = draw.choice(SIDES)
        shapes[name] = tuple(shape)


def change_a_side_everywhere(shapes: Shapes, name: str, draw: random.Random) -> None:
    if shape := shapes[name]:
        old, new = draw.choice(shape), draw.choice(SIDES)
        for other, sides in shapes.items():
            shapes[other] = tuple(new if side == old else side for side in sides)


def rename(shapes: Shapes, name: str, draw: random.Random) -> None:
    """Change a number in a name, such as that of a stage."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    if numbers:
        parts[draw.choice(numbers)] = draw.choice(("0", "1", "9", "17", "999999998", "9" * 5000))
        shapes[".".join(parts)] = shapes[name]


ALTERATIONS: tuple[Callable[[Shapes, str, random.Random], None], ...] = (
    drop,
    keep_a_few,
    cut_axes,
    add_an_axis,
    change_a_side,
    change_a_side_everywhere,
    rename,
)


def altered(own: Shapes, draw: random.Random) -> Shapes:
    shapes = dict(own)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        if shapes:
            draw.choice(ALTERATIONS)(shapes, draw.choice(sorted(shapes)), draw)
    return shapes


@pytest.mark.parametrize("name", NAMES)
def test_altered_tensors_are_recognised_or_not_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "models.recognition.recognise.nearest", lambda shapes: models.Differences(name, 0, (), (), ())
    )  # slow
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in models.create(name, num_classes=7).state_dict().items()}
    draw, refused = random.Random(name), 0
    for _ in range(ROUNDS):
        shapes = altered(own, draw)
        try:
            models.recognise(on_meta(shapes))
        except UnrecognisedError:
            refused += 1
    assert refused > ROUNDS / 2


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Stand-ins without memory; a tensor has at most 2^40 numbers, as a file's has."""
    fitting = {name: shape if math.prod(shape) < 2**40 else (2**31,) for name, shape in shapes.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in fitting.items()}


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyError, ValueError, TypeError, IndexError, RuntimeError])
def test_a_mistake_in_a_family_is_not_taken_for_another_architecture(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def toy(at: Layout) -> Iterator[Candidate]:
        raise kind("a mistake")
        yield

    monkeypatch.setattr(
        "models.recognition.recognise.families", lambda: [Family(name="toy", architectures=(), propose=toy)]
    )
    with pytest.raises(kind, match="a mistake"):
        models.recognise({"x": torch.empty(3, device="meta")})


def test_families_with_the_same_tensors_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(at: Layout) -> Iterator[Candidate]:
        yield Candidate("timm:resnetblur18", {}, "fc.weight")

    known = families()
    monkeypatch.setattr("models.recognition.recognise.same_tensors", lambda shapes: {})
    with torch.device("meta"):
        tensors = models.create("resnet18", num_classes=7).state_dict()
    assert models.recognise(tensors).questions == ()
    monkeypatch.setattr(
        "models.recognition.recognise.families", lambda: [*known, Family(name="toy", architectures=(), propose=toy)]
    )
    found = models.recognise(tensors)
    assert found.architecture == "resnet18"
    assert [(each.field, each.allowed) for each in found.questions] == [
        ("architecture", "resnet18 or timm:resnetblur18")
    ]


def test_a_family_without_a_tensor_lets_the_next_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(at: Layout) -> Iterator[Candidate]:
        yield Candidate(f"resnet{at.side('toy.weight')}", {}, "fc.weight")

    known = families()
    monkeypatch.setattr(
        "models.recognition.recognise.families", lambda: [Family(name="toy", architectures=(), propose=toy), *known]
    )
    with torch.device("meta"):
        tensors = models.create("resnet18", num_classes=7).state_dict()
    assert models.recognise(tensors).architecture == "resnet18"
