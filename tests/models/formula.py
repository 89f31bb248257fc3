"""Weights and inputs made from formulas, so that golden outputs need no stored tensors (see tests/golden/README.md)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def draw(seed: int, shape: Sequence[int]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(size=size).astype(np.float32).reshape(shape)


def _scale(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    if name.endswith("running_var"):
        return 0.5 + 0.5 * np.abs(x)
    if x.ndim == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    fan_in = np.prod(x.shape[1:])
    if name.endswith("conv_w.5.weight"):
        pairwise = x.shape[0] <= x.shape[1]
        return 4 * x / np.sqrt(fan_in) if pairwise else 0.3 * x / np.sqrt(fan_in) / np.sqrt(x.shape[0] / x.shape[1])
    return x / np.sqrt(fan_in)


def formula_weights(shapes: Mapping[str, Sequence[int]], derived: Sequence[str]) -> dict[str, Tensor]:
    """Draw float32 weights for every name that is not derived."""
    drawn = sorted(set(shapes) - set(derived))
    return {
        name: torch.from_numpy(_scale(name, draw(1000 + i, shapes[name])).astype(np.float32))
        for i, name in enumerate(drawn)
    }


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def formula_images(shape: Sequence[int]) -> Tensor:
    """Coarse 32x32 patches plus half as much fine noise."""
    n, c, h, w = shape
    coarse = draw(7, (n, c, h // 32, w // 32)).repeat(32, axis=2).repeat(32, axis=3)
    return torch.from_numpy(coarse + np.float32(0.5) * draw(8, shape))


def tensor(stored: Mapping[str, Any]) -> Tensor:
    return torch.tensor(stored["data"], dtype=torch.float64).view(stored["shape"])


def probe(x: Tensor) -> list[float]:
    flat = x.detach().contiguous().flatten()
    return flat[[j * (flat.numel() - 1) // 15 for j in range(16)]].tolist()
