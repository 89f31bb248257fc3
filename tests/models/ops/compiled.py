"""Compile the kernels of SAN for GPUs that need not be there, and print what they need: one JSON object for each.

    python -m tests.models.ops.compiled
    python -m tests.models.ops.compiled all

All kernels with their default launches, and the pairwise ones of the last stage with their other launches too: the default ones of
the first and the last stage on all GPUs, the others on the GPU where they need most, or on all. Two at a time are compiled, as
`models.ops.triton_fit` does it there; Triton brings compiler and assembler.
"""

import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from benchmarks.san_gpu import kernels_of
from benchmarks.san_ops import WIDTHS
from models.ops.triton_fit import Kernel, compile_kernel, launches

CAPABILITIES = (80, 90)
HARDEST = {torch.float32: 80, torch.bfloat16: 90}
"""Where kernels need most: registers in float32, which spill there, and shared memory in bfloat16. Stages between the first and the
last need at most 1 KiB of shared memory more on one than on the other, and less than the last."""
ENDS = (0, len(WIDTHS) - 1)


class Absent:
    """What the compiler asks the driver of a GPU; its kernels are kept apart from those of others."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


class Case(NamedTuple):
    """A kernel to be compiled; `is_default` unless it is another launch that may be chosen."""

    capability: int
    dtype: torch.dtype
    stage: int
    kernel: Kernel
    is_default: bool


def published(dtype: torch.dtype) -> Iterator[tuple[int, Kernel]]:
    """Kernels of SAN10, SAN15 and SAN19, whose stages are alike; aggregation, which multiplies no matrices, in float32."""
    for stage in range(len(WIDTHS)):
        for kind in ("pairwise", "aggregation") if dtype == torch.float32 else ("pairwise",):
            for kernel in kernels_of(kind, stage, dtype):
                yield stage, kernel


def cases(*, everywhere: bool) -> Iterator[Case]:
    """All launches of the last stage, those that take longest first, and the default ones of the others."""
    for dtype, hardest in HARDEST.items():
        for stage, kernel in reversed(list(published(dtype))):
            for launch in launches(kernel, dtype):
                is_default = launch == kernel.launch
                is_last = stage == ENDS[-1] and kernel.name.startswith("pairwise")
                for capability in CAPABILITIES if everywhere or (is_default and stage in ENDS) else (hardest,):
                    if is_default or is_last:
                        yield Case(capability, dtype, stage, kernel._replace(launch=launch), is_default)


def stack(cubin: bytes) -> int:
    """Bytes of a thread that lie in memory, as the driver would count them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        (said,) = re.findall(
            r" STACK:(\d+) ", subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )
    return int(said)


def needs(case: Case) -> dict[str, Any]:
    driver.set_active(Absent(case.capability))
    compiled = compile_kernel(case.kernel, case.dtype)
    return {
        "capability": case.capability,
        "dtype": str(case.dtype),
        "stage": case.stage,
        "name": case.kernel.name,
        "launch": case.kernel.launch,
        "default": case.is_default,
        "shared": compiled.metadata.shared,
        "stack": stack(compiled.asm["cubin"]),
    }


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for each in pool.imap_unordered(needs, list(cases(everywhere="all" in sys.argv))):
            print(json.dumps(each), flush=True)
