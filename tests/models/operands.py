"""Operands of SAN's attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.ops.pairwise import PairwiseWeights, pairwise_core
from models.ops.patchwise import PatchwiseWeights, patchwise_core


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairwise_operands(*, n: int, h: int, w: int, k: int) -> tuple[list[Tensor], PairwiseWeights]:
    relation, maps, channels = 3, 2, 4
    table = random(k * k, min(h, k), min(w, k), relation, seed=5)
    weights = PairwiseWeights(random(relation, relation, seed=3), random(relation, maps, seed=4), table)
    sizes = [relation, relation, channels]
    return [random(n, h, w, size, seed=i).requires_grad_() for i, size in enumerate(sizes)], weights


def patchwise_operands(*, n: int, h: int, w: int, k: int) -> tuple[list[Tensor], PatchwiseWeights]:
    relation, maps, channels = 3, 2, 4
    row = k * relation
    shapes = [(k, row), (k, row), (relation, maps), (k, row, maps), (maps,), (k * k, maps, maps), (k * k, maps)]
    weights = PatchwiseWeights(*(random(*shape, seed=10 + i) for i, shape in enumerate(shapes)))
    sizes = [relation, relation, channels]
    return [random(n, h, w, size, seed=i).requires_grad_() for i, size in enumerate(sizes)], weights


CORES: dict[str, tuple[Callable[..., Tensor], Callable[..., tuple[list[Tensor], Any]]]] = {
    "pairwise": (pairwise_core, pairwise_operands),
    "patchwise": (patchwise_core, patchwise_operands),
}
