"""What tests of the Triton kernels need: where they run, and operands."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.ops import triton_ops
from models.ops.pairwise import PairwiseWeights

ON_GPU = torch.cuda.is_available()


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED and triton_ops.HAS_TRITON:
    from triton.runtime.interpreter import interpreter_builder

    # No index of operands this small passes 32 bits, and looking for it takes a third of the time.
    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


DEVICE = torch.device("cuda" if ON_GPU else "cpu")


needs_triton = pytest.mark.skipif(not triton_ops.HAS_TRITON, reason="Triton is not installed")


kernels = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="runs in the process of the interpreter")


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)


def pairwise_operands(
    n: int, h: int, w: int, k: int, r: int, d: int, c: int, *, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], PairwiseWeights]:
    """Inputs beside each other in one map, as the network makes them, and weights."""
    merged = draw(n, h, w, 2 * r + c, seed=1, dtype=dtype)
    table = draw(k * k, min(h, k), min(w, k), r, seed=2, dtype=dtype)
    weights = draw(r, r, seed=3, dtype=dtype) / r**0.5, draw(r, d, seed=4, dtype=dtype) / r**0.5, table
    return list(merged.split([r, r, c], -1)), PairwiseWeights(*weights)


def in_a_process(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} | variables
    environment.pop("PYTEST_ADDOPTS", None)
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
