"""Checkpoints: files of tensors with their cards, found by name, checked and loaded."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from common import describe_validation, file_sha256, printable, unknown_name
from models.card import ModelCard
from models.classifier import Classifier
from models.opaque import OPAQUE, OpaqueError, OpaqueNetwork, check_opaque, load_opaque
from models.registry import create
from models.state_dicts import SUFFIXES, CheckpointError, listed, read_state_dict, require_size, unprefixed

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "checkpoints"
"""Folder of the checkpoints that come with the project."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file with a card beside it; `name` is the file's name without its suffix.

    `twin` is another file of the same name, which makes both unusable.
    """

    name: str
    path: Path
    twin: Path | None = None

    @property
    def card_path(self) -> Path:
        """Path of its card."""
        return self.path.with_suffix(".json")

    def card(self) -> ModelCard:
        """Read the card.

        Raises:
            CheckpointError: the card is missing, malformed or unreadable, or the name is that of another checkpoint too.
        """
        self.require_only()
        name = f"{self.name}.json"
        try:
            return ModelCard.model_validate_json(self.card_path.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{printable(self.path.name)} has no card: {name} must lie beside it") from None
        except OSError as error:
            raise CheckpointError(f"the card {name} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise CheckpointError(f"the card {name} is not usable: {describe_validation(error)}") from error

    def require_only(self) -> None:
        """Refuse a checkpoint that shares its name.

        Raises:
            CheckpointError: it does.
        """
        if self.twin is not None:
            raise CheckpointError(
                f"two checkpoints are named {self.name!r}: {printable(str(self.path))} and {printable(str(self.twin))}; "
                "rename or remove one of the files"
            )


def find_checkpoints(folders: Sequence[Path] = (ZOO,)) -> dict[str, Checkpoint]:
    """Find every checkpoint that has a card, by name.

    Args:
        folders: searched one level deep, in this order; a folder that does not exist counts as empty.
    """
    found: dict[str, Checkpoint] = {}
    for folder in folders:
        there = _names_in(folder)
        for path in (folder / name for name in sorted(there) if name.endswith(SUFFIXES)):
            if path.suffix not in SUFFIXES or f"{path.stem}.json" not in there:
                continue
            name = printable(path.stem)
            first = found.setdefault(name, Checkpoint(name, path))
            if first.path != path:
                found[name] = replace(first, twin=path)
    return found


def _names_in(folder: Path) -> set[str]:
    with suppress(OSError):
        return {*os.listdir(folder)}  # noqa: PTH208  each request may look, and a path for each file would take most of it
    return set()


def load(
    name: str | Path,
    *,
    folders: Sequence[Path] = (ZOO,),
    device: torch.device | str = "cpu",
    isolated: bool = False,
) -> Classifier:
    """Load a trained checkpoint as a frozen classifier in evaluation mode.

    Args:
        name: the name of a checkpoint in one of the folders, or the path of a checkpoint file with a card beside it.
        folders: where names are looked up.
        device: where the classifier will run.
        isolated: run a graph from a file in a process of its own; gradients do not come back.

    Raises:
        UnknownNameError: there is no checkpoint of that name.
        CheckpointError: the file or its card cannot be used, or the two do not match.
    """
    path = Path(name)
    checkpoints = find_checkpoints(folders)
    if path.suffix in SUFFIXES and path.is_file():
        checkpoint = Checkpoint(path.stem, path)
    elif str(name) in checkpoints:
        checkpoint = checkpoints[str(name)]
    else:
        raise unknown_name("model", str(name), checkpoints)
    return _load(checkpoint, isolated=isolated).to(device)


def _load(checkpoint: Checkpoint, *, isolated: bool) -> Classifier:
    card = checkpoint.card()
    if card.architecture in OPAQUE:
        return Classifier(_read_opaque(checkpoint, card, isolated=isolated), card).eval().requires_grad_(False)
    tensors = _read_verified(checkpoint, card)
    network = create(card.architecture, num_classes=len(card.classes), **card.options)
    network.load_state_dict(tensors)
    return Classifier(network, card).eval().requires_grad_(False)


def verify(checkpoint: Checkpoint, *, isolated: bool = False) -> ModelCard:
    """Check, without building the network, that a checkpoint can be loaded.

    Args:
        checkpoint: to be checked.
        isolated: run a graph from a file in a process of its own.

    Returns:
        Its card.

    Raises:
        CheckpointError: the file or its card cannot be used, or the two do not match.
    """
    card = checkpoint.card()
    if card.architecture in OPAQUE:
        _read_opaque(checkpoint, card, isolated=isolated)
    else:
        _read_verified(checkpoint, card)
    return card


def _require_hash(checkpoint: Checkpoint, card: ModelCard) -> None:
    if card.sha256 and (actual := file_sha256(checkpoint.path)) != card.sha256:
        raise CheckpointError(f"{checkpoint.path.name} has sha256 {actual}, its card says {card.sha256}")


def _read_opaque(checkpoint: Checkpoint, card: ModelCard, *, isolated: bool) -> OpaqueNetwork:
    _require_hash(checkpoint, card)
    require_size(checkpoint.path)
    try:
        network = load_opaque(card.architecture, checkpoint.path, isolated=isolated)
        found = check_opaque(network, card.preprocessing.crop, randomised=card.randomised)
    except OpaqueError as error:
        raise CheckpointError(f"{checkpoint.path.name}: {error}") from error
    if found != len(card.classes):
        raise CheckpointError(
            f"{checkpoint.path.name} gives {found} logits, its card names {len(card.classes)} classes"
        )
    return network


def _read_verified(checkpoint: Checkpoint, card: ModelCard) -> dict[str, Tensor]:
    _require_hash(checkpoint, card)
    tensors = read_state_dict(checkpoint.path, card.weights)
    try:
        with torch.device("meta"):
            expected = create(card.architecture, num_classes=len(card.classes), **card.options).state_dict()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{card.architecture} cannot be built with options {card.options}: {error}") from error
    forms = list(unprefixed(tensors))
    problems = [_problems(form, expected) for form in forms]
    best = min(range(len(forms)), key=lambda index: sum(map(len, problems[index].values())))
    if facts := "; ".join(f"{what}: {listed(keys)}" for what, keys in problems[best].items() if keys):
        raise CheckpointError(
            f"{checkpoint.path.name} does not fit {card.architecture} with {len(card.classes)} classes. {facts}"
        )
    return forms[best]


def _problems(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """List what a strict load would refuse; every list is empty if the tensors fit."""
    shapes = [
        f"{key}: file {tuple(tensors[key].shape)}, architecture {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    return {
        "missing keys": [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")],
        "unexpected keys": [key for key in tensors if key not in expected],
        "other shapes": shapes,
    }
