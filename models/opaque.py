"""Files that bring their own graph.

A *TorchScript* file (`torch.jit.save`) or a *torch.export* file (`torch.export.save`) needs no architecture of this package: its
card says "torchscript" or "torch_export". Loading or running such a file can run code that its author put there.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import NoReturn, Self

import torch
from torch import Tensor, nn

from common import unknown_name
from models.graph_process import GraphError, GraphProcess
from models.registry import FindSpec, ModelSpec, register_others

TORCHSCRIPT, TORCH_EXPORT = "torchscript", "torch_export"
OPAQUE = (TORCHSCRIPT, TORCH_EXPORT)
"""Architectures of files that bring their own graph."""

_SIDE = 224


class OpaqueError(ValueError):
    """A file that brings its own graph cannot be used; the message says why."""


class OpaqueNetwork(nn.Module):
    """A graph from a file, in whatever mode it was saved.

    Args:
        graph: maps normalised images (N, 3, H, W) to logits (N, K).
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def train(self, mode: bool = True) -> Self:
        """Set the flag alone: the graph stays in the mode it was saved in, and an exported graph refuses to change it."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, K)."""
        return self.graph(images)


def load_opaque(architecture: str, path: Path, *, isolated: bool = False) -> OpaqueNetwork:
    """Read a graph from a file. This can run code that the file contains.

    Args:
        architecture: one of OPAQUE.
        path: of the file.
        isolated: read and run it in a process of its own, for predictions alone: gradients do not come back.

    Raises:
        OpaqueError: the file is not of this kind, or the graph crashes its process.
    """
    if isolated:
        try:
            return OpaqueNetwork(GraphProcess(partial(_load_checked, architecture), path))
        except GraphError as error:
            raise OpaqueError(str(error)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one format warns that it is old, the other that it is new
            if architecture == TORCHSCRIPT:
                return OpaqueNetwork(torch.jit.load(path, map_location="cpu").eval())
            return OpaqueNetwork(torch.export.load(path).module())
    except Exception as error:  # too many kinds to list
        raise OpaqueError(f"not a readable {architecture} file: {_first_line(error)}") from error


def _load_checked(architecture: str, path: Path) -> nn.Module:
    return _Checked(load_opaque(architecture, path))


class _Checked(nn.Module):
    """Reports what the graph raises or returns as here."""

    def __init__(self, network: OpaqueNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _run(self.network, images)


def check_opaque(network: nn.Module, side: int, *, randomised: bool = False) -> int:
    """Run a graph on a few images, and return its number of classes.

    Args:
        network: takes images (N, 3, side, side) for any N.
        side: height and width of the images, pixels.
        randomised: logits of an image may differ between passes.

    Raises:
        OpaqueError: the graph does not run, not for every batch size, does not return logits, or was saved in training mode.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, side, side, generator=generator)
    every, alone = _run(network, images), _run(network, images[:1])
    if every.ndim != 2 or len(every) != 3 or not every.is_floating_point():
        raise OpaqueError(f"expected logits (3, classes) of 3 images, got {every.dtype} {tuple(every.shape)}")
    if not randomised and not torch.allclose(every[:1], alone, rtol=1e-3, atol=1e-3):
        raise OpaqueError(
            "an image's logits are random or depend on the other images of its batch: save the network in evaluation mode, or give "
            "its card randomised = true if they are random on purpose"
        )
    return every.shape[1]


def _run(network: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            logits: object = network(images)
    except GraphError as error:  # of a process, which says all
        raise OpaqueError(str(error)) from error
    except Exception as error:  # anything the graph raises
        raise OpaqueError(
            f"the graph does not accept images of shape {tuple(images.shape)}: {_first_line(error)}. It must accept images of the "
            "card's size in batches of any size: export it with dynamic_shapes such as ({0: torch.export.Dim('batch')},)"
        ) from error
    if not isinstance(logits, Tensor):
        raise OpaqueError(f"the graph returns a {type(logits).__name__}, expected one tensor of logits")
    return logits


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _of_a_file(architecture: str) -> FindSpec:
    def build(num_classes: int) -> NoReturn:
        raise ValueError(
            f"{architecture} names a kind of file, whose network is in the file: it cannot be created with {num_classes=}"
        )

    def find(rest: str) -> ModelSpec:
        if rest:
            raise unknown_name("architecture", f"{architecture}:{rest}", OPAQUE)
        return ModelSpec(architecture, build, (3, _SIDE, _SIDE), "the file itself")

    return find


for _architecture in OPAQUE:
    register_others(_architecture, _of_a_file(_architecture))
