"""Reads the named tensors of checkpoint files, also nested in a training script's mapping, without running what files contain."""

import argparse
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.card import Weights
from models.opaque import TORCH_EXPORT, TORCHSCRIPT
from models.registry import families

MAX_CHECKPOINT_BYTES = 4 * 2**30
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pt2")
_NESTED_UNDER = ("state_dict", "model_state_dict", "model")
_EMA_UNDER = ("model_ema", "ema_state_dict", "state_dict_ema")
_FACTS_UNDER = ("args", "config", "hparams", "hyper_parameters")
_AVERAGE_COUNTER = "n_averaged"
"""The counter that torch.optim.swa_utils.AveragedModel stores beside its tensors."""
_MOST_PREFIXES = 4
_MOST_FACTS, _LONGEST_FACT = 64, 200
_GRAPHS = {"/constants.pkl": TORCHSCRIPT, "/models/model.json": TORCH_EXPORT}
"""Members of an archive that only files with a graph have, and the architecture of such files."""
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
"""What torch.load raises for bytes that are not a PyTorch file, or only part of one."""


Fact = str | int | float


class CheckpointError(ValueError):
    """A checkpoint or its card cannot be used; the message says why, and what is expected."""


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file.

    Attributes:
        weights: named tensors by kind; at least one kind.
        facts: numbers and short texts beside them, such as the epoch.
    """

    weights: dict[Weights, dict[str, Tensor]]
    facts: dict[str, Fact]

    def choose(self, weights: object = None) -> dict[str, Tensor]:
        """Choose the weights of one kind; by default the plain ones, or those of the only kind.

        Raises:
            CheckpointError: the file has no weights of this kind.
        """
        for kind in get_args(Weights):
            if kind in self.weights and weights in (None, kind):
                return self.weights[kind]
        raise CheckpointError(f"weights: the file has {' and '.join(self.weights)} weights, got {weights!r}")


def read_state_dict(path: Path, weights: Weights | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file under their names there; nothing in the file is executed.

    Reads safetensors and PyTorch files (`weights_only`). In PyTorch files, tensors may be nested under `state_dict`,
    `model_state_dict` or `model`, and moving averages of the weights under `model_ema`, `ema_state_dict` or `state_dict_ema`.

    Args:
        path: of the file.
        weights: which kind, if the file has both; by default the plain ones.

    Raises:
        CheckpointError: the file is missing, too large or of another format, contains code, or contains anything but named tensors.
    """
    return read_checkpoint(path).choose(weights)


def read_checkpoint(path: Path) -> Contents:
    """Read the tensors of a checkpoint file, and the facts stored beside them.

    Raises:
        CheckpointError: as for `read_state_dict`.
    """
    require_size(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    plain, beside = _nested(content)
    top = cast(Mapping[object, object], content) if isinstance(content, Mapping) else {}
    ema = next((top[key] for key in _EMA_UNDER if _are_tensors(top.get(key))), None)
    found: dict[Weights, object] = {"plain": plain} if ema is None or plain is not content else {}
    found |= {} if ema is None else {"ema": ema}
    if plain is content:
        beside = {} if ema is None else top
    return Contents({kind: _named(value, path.name) for kind, value in found.items()}, _facts(beside))


def _nested(content: object) -> tuple[object, Mapping[object, object]]:
    """Find the tensors inside a training script's mapping, and the values beside them."""
    beside: Mapping[object, object] = {}
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            outer = cast(Mapping[object, object], content)
            beside = {name: value for name, value in outer.items() if name != key}
            content = outer[key]
    return content, beside


def _are_tensors(content: object) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(value, Tensor) for value in cast(Mapping[object, object], content).values())


def _named(content: object, file: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} contains a {type(content).__name__}, expected a mapping of names to tensors")
    values = cast(Mapping[object, object], content)
    wrong = [f"{key!r}: {type(value).__name__}" for key, value in values.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{file} contains values that are not tensors: {listed(wrong)}")
    tensors = {
        str(key): value for key, value in cast(Mapping[object, Tensor], content).items() if key != _AVERAGE_COUNTER
    }
    _require_plain(tensors, file)
    return tensors


_T = TypeVar("_T")


def _with_names_here(named: dict[str, _T]) -> Iterator[dict[str, _T]]:
    yield named
    for rename in (family.rename for family in families() if family.rename):
        if ours := rename(named):
            yield {ours[name]: value for name, value in named.items()}


def unprefixed(tensors: Mapping[str, _T]) -> Iterator[dict[str, _T]]:
    """Yield named values as they are, then without each prefix that all names share: `module.`, `model.`, `net.`, ...

    Parallel training, Lightning and other wrappers add such prefixes. If all names are those of other code for a family, they are
    also yielded under this package's names.
    """
    named = dict(tensors)
    yield from _with_names_here(named)
    for _ in range(_MOST_PREFIXES):
        first, dot, _ = next(iter(named), "").partition(".")
        prefix = first + dot
        if not dot or not all(name.startswith(prefix) for name in named):
            return
        named = {name.removeprefix(prefix): value for name, value in named.items()}
        yield from _with_names_here(named)


def require_suffix(name: str) -> None:
    """Refuse names of files that are not checkpoints.

    Raises:
        CheckpointError: the name has another suffix than those of `SUFFIXES`.
    """
    if Path(name).suffix == ".onnx":
        raise CheckpointError(
            f"{name[:100]}: ONNX files cannot be read. Save the PyTorch network's state_dict, or convert the file: network = "
            "onnx2torch.convert(file), then torch.export.save(torch.export.export(network.eval(), ...)) to a .pt2 file"
        )
    if Path(name).suffix not in SUFFIXES:
        raise CheckpointError(f"the file name must end in one of {', '.join(SUFFIXES)}, got {name[:100]!r}")


def require_size(path: Path) -> None:
    """Refuse files that do not exist or are too large.

    Raises:
        CheckpointError: the file does not exist, or has more than MAX_CHECKPOINT_BYTES.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    if (size := path.stat().st_size) > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{path.name} has {size} bytes, at most {MAX_CHECKPOINT_BYTES} are allowed")


def _require_plain(tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuse tensors whose elements are not in the file: a few bytes can describe a tensor that fills the memory."""
    for name, tensor in tensors.items():
        usual = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not usual or tensor.is_complex():
            raise CheckpointError(
                f"{file}: {name} is not a plain tensor ({tensor.dtype}, {tensor.layout}, {tensor.device})"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{file}: {name} has shape {tuple(tensor.shape)}, but the file has fewer elements than that"
            )
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{file} describes tensors of {total} bytes, at most {MAX_CHECKPOINT_BYTES} are allowed")


def _facts(beside: Mapping[object, object], prefix: str = "") -> dict[str, Fact]:
    """Collect numbers and short texts, also those in a mapping or a parsed command line."""
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
    torch.serialization.add_safe_globals(
        [argparse.Namespace]
    )  # training scripts store it; it contains values and runs nothing
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path.name} contains more than tensors and was not read, because reading it could run code ({reason}). "
            "Save only the state_dict, best as safetensors."
        ) from error
    except _BROKEN as error:
        raise CheckpointError(f"{path.name} is not a readable PyTorch file: {error}") from error


def _require_tensors(path: Path) -> None:
    """Refuse an archive that brings its own graph, or is too large once unpacked: torch unpacks it into memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return  # the old format, or broken: torch.load tells
    size = sum(member.file_size for member in members)
    if size > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{path.name} unpacks to {size} bytes, at most {MAX_CHECKPOINT_BYTES} are allowed")
    for mark, architecture in _GRAPHS.items():
        if any(member.filename.endswith(mark) for member in members):
            raise CheckpointError(
                f"{path.name} brings its own graph: to use it, give its architecture as {architecture}"
            )


def listed(items: Sequence[str]) -> str:
    """List the first few items, and how many more there are."""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
