"""Checkpoint files: found, read without running anything they contain, checked, loaded."""

import argparse
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common import describe_validation, file_sha256, unknown_name
from models._card import ModelCard
from models._classifier import Classifier
from models._registry import create
from models.opaque import OPAQUE, TORCH_EXPORT, TORCHSCRIPT, OpaqueError, OpaqueNetwork, check_opaque, load_opaque

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "checkpoints"
"""Folder of the checkpoints that come with the project."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".pt2")
MAX_CHECKPOINT_BYTES = 4 * 2**30
_NESTED_UNDER = ("state_dict", "model")
_FACTS_UNDER = ("args", "config", "hparams")
_MOST_FACTS, _LONGEST_FACT = 64, 200
_GRAPHS = {"/constants.pkl": TORCHSCRIPT, "/models/model.json": TORCH_EXPORT}
"""Members that only files with a graph have, and the architecture of such files."""
_LISTED = 5
_BROKEN = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    OSError,
    AssertionError,
    AttributeError,
    struct.error,
)
"""What torch.load raises on bytes that are no PyTorch file, or no longer a whole one."""


Fact = str | int | float


class CheckpointError(ValueError):
    """A checkpoint or its card cannot be used; the message says why and what is expected."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file with a card beside it; `name` is the file's name without its ending."""

    name: str
    path: Path

    @property
    def card_path(self) -> Path:
        """Where its card is."""
        return self.path.with_name(f"{self.name}.json")

    def card(self) -> ModelCard:
        """Read the card.

        Raises:
            CheckpointError: it is missing or malformed.
        """
        try:
            return ModelCard.model_validate_json(self.card_path.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{self.path.name} has no card: {self.card_path.name} must lie beside it") from None
        except ValidationError as error:
            raise CheckpointError(
                f"the card {self.card_path.name} is not usable: {describe_validation(error)}"
            ) from error


def find_checkpoints(folders: Sequence[Path] = (ZOO,)) -> dict[str, Checkpoint]:
    """Find every checkpoint that has a card, by name.

    Args:
        folders: searched one level deep, in this order; folders that do not exist are empty.

    Raises:
        CheckpointError: two checkpoints have the same name.
    """
    found: dict[str, Checkpoint] = {}
    for folder in folders:
        for path in sorted(folder.glob("*")):
            if path.suffix not in SUFFIXES or not path.with_name(f"{path.stem}.json").exists():
                continue
            if path.stem in found:
                raise CheckpointError(f"two checkpoints are named {path.stem!r}: {found[path.stem].path} and {path}")
            found[path.stem] = Checkpoint(path.stem, path)
    return found


def load(name: str | Path, *, folders: Sequence[Path] = (ZOO,), device: torch.device | str = "cpu") -> Classifier:
    """Load a trained checkpoint as a frozen classifier in evaluation mode.

    Args:
        name: the name of a checkpoint in one of the folders, or the path of a checkpoint file with a card beside it.
        folders: where names are looked up.
        device: where the classifier will run.

    Raises:
        UnknownNameError: there is no checkpoint of that name.
        CheckpointError: the file, its card, or their agreement is at fault.
    """
    path = Path(name)
    checkpoints = find_checkpoints(folders)
    if path.suffix in SUFFIXES and path.is_file():
        checkpoint = Checkpoint(path.stem, path)
    elif str(name) in checkpoints:
        checkpoint = checkpoints[str(name)]
    else:
        raise unknown_name("model", str(name), checkpoints)
    return _load(checkpoint).to(device)


def _load(checkpoint: Checkpoint) -> Classifier:
    card = checkpoint.card()
    if card.architecture in OPAQUE:
        return Classifier(_read_opaque(checkpoint, card), card).eval().requires_grad_(False)
    tensors = _read_verified(checkpoint, card)
    network = create(card.architecture, num_classes=len(card.classes), **card.options)
    network.load_state_dict(tensors)
    return Classifier(network, card).eval().requires_grad_(False)


def verify(checkpoint: Checkpoint) -> ModelCard:
    """Check, without building the network, that a checkpoint can be loaded.

    Returns:
        Its card.

    Raises:
        CheckpointError: the file, its card, or their agreement is at fault.
    """
    card = checkpoint.card()
    if card.architecture in OPAQUE:
        _read_opaque(checkpoint, card)
    else:
        _read_verified(checkpoint, card)
    return card


def _require_hash(checkpoint: Checkpoint, card: ModelCard) -> None:
    if card.sha256 and (actual := file_sha256(checkpoint.path)) != card.sha256:
        raise CheckpointError(f"{checkpoint.path.name} has sha256 {actual}, its card says {card.sha256}")


def _read_opaque(checkpoint: Checkpoint, card: ModelCard) -> OpaqueNetwork:
    _require_hash(checkpoint, card)
    require_size(checkpoint.path)
    try:
        network = load_opaque(card.architecture, checkpoint.path)
        found = check_opaque(network, card.preprocessing.crop)
    except OpaqueError as error:
        raise CheckpointError(f"{checkpoint.path.name}: {error}") from error
    if found != len(card.classes):
        raise CheckpointError(
            f"{checkpoint.path.name} gives {found} logits, its card names {len(card.classes)} classes"
        )
    return network


def _read_verified(checkpoint: Checkpoint, card: ModelCard) -> dict[str, Tensor]:
    _require_hash(checkpoint, card)
    tensors = read_state_dict(checkpoint.path)
    try:
        with torch.device("meta"):
            expected = create(card.architecture, num_classes=len(card.classes), **card.options).state_dict()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{card.architecture} cannot be built with options {card.options}: {error}") from error
    _require_same_layout(tensors, expected, checkpoint.path.name, card)
    return tensors


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file; nothing in the file is executed.

    Understands safetensors and PyTorch files (`weights_only`), the latter also nested under `state_dict` or `model`,
    and removes the prefix `module.` that parallel training leaves.

    Raises:
        CheckpointError: the file is missing, too large, of another format, holds code, or holds something else than named tensors.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Fact]]:
    """Read the tensors of a checkpoint file, and what is stored beside them: numbers and short texts, such as the epoch.

    Raises:
        CheckpointError: as `read_state_dict`.
    """
    require_size(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    facts: dict[str, Fact] = {}
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            facts = _facts({name: value for name, value in content.items() if name != key})
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, expected a mapping of names to tensors")
    wrong = [f"{key!r}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path.name} holds things that are not tensors: {listed(wrong)}")
    tensors = cast(Mapping[str, Tensor], content)
    _require_plain(tensors, path.name)
    return {str(key).removeprefix("module."): value for key, value in tensors.items()}, facts


def require_size(path: Path) -> None:
    """Refuse files that are not there or too large.

    Raises:
        CheckpointError: it is one of them.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    if (size := path.stat().st_size) > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{path.name} has {size} bytes, allowed are {MAX_CHECKPOINT_BYTES}")


def _require_plain(tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuse tensors without numbers of their own: a file of a few bytes can describe one that fills the memory."""
    for name, tensor in tensors.items():
        usual = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not usual or tensor.is_complex():
            raise CheckpointError(
                f"{file}: {name} is not a plain tensor ({tensor.dtype}, {tensor.layout}, {tensor.device})"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{file}: {name} has shape {tuple(tensor.shape)} but fewer numbers than that in the file"
            )
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{file} describes tensors of {total} bytes, allowed are {MAX_CHECKPOINT_BYTES}")


def _facts(beside: Mapping[object, object], prefix: str = "") -> dict[str, Fact]:
    """Keep numbers and short texts, also those of a mapping or a parsed command line."""
    found: dict[str, Fact] = {}
    for key, value in beside.items():
        name = f"{prefix}{key}"[:_LONGEST_FACT]
        plain = (
            value.item() if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu" else value
        )
        inner: object = vars(plain) if isinstance(plain, argparse.Namespace) else plain
        if isinstance(plain, str | int) or (isinstance(plain, float) and math.isfinite(plain)):
            found[name] = plain[:_LONGEST_FACT] if isinstance(plain, str) else plain
        elif isinstance(inner, Mapping) and not prefix and key in _FACTS_UNDER:
            found |= _facts(cast(Mapping[object, object], inner), f"{name}.")
    return {name: found[name] for name in list(found)[:_MOST_FACTS]}


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    _require_tensors(path)
    torch.serialization.add_safe_globals([argparse.Namespace])  # of training scripts; it holds values and runs nothing
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path.name} holds more than tensors and was not read, because reading it could run code ({reason}). "
            "Save the state_dict alone, best as safetensors."
        ) from error
    except _BROKEN as error:
        raise CheckpointError(f"{path.name} is not a readable PyTorch file: {error}") from error


def _require_tensors(path: Path) -> None:
    """Refuse a zip that brings its own graph, or that becomes larger than a checkpoint may be: torch unpacks it into memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return  # the old format, or broken: torch says which
    size = sum(member.file_size for member in members)
    if size > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{path.name} unpacks to {size} bytes, allowed are {MAX_CHECKPOINT_BYTES}")
    for mark, architecture in _GRAPHS.items():
        if any(member.filename.endswith(mark) for member in members):
            raise CheckpointError(
                f"{path.name} brings its own graph: that is used only if its architecture is given as {architecture}"
            )


def _require_same_layout(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: str, card: ModelCard
) -> None:
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key}: file {tuple(tensors[key].shape)}, architecture {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    problems = {"missing keys": missing, "unexpected keys": unexpected, "other shapes": shapes}
    if any(problems.values()):
        facts = "; ".join(f"{what}: {listed(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{file} does not fit {card.architecture} with {len(card.classes)} classes. {facts}")


def listed(items: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
