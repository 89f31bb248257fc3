"""Compile the kernels of SAN for a GPU that need not be there, and print what they need: one JSON object for each.

    python -m tests.models.ops.compiled 90 float32 01234

The last argument names stages. Kernels are compiled as `models.ops.triton_fit` does it on that GPU; Triton brings the compiler and
the assembler.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.driver import driver

from benchmarks.san_ops import FOOTPRINTS, MAPS, WIDTHS
from models.families.san.network import PUBLISHED
from models.ops.triton_fit import Kernel, aggregation_kernels, compile_kernel, pairwise_kernels


class Absent:
    """What the compiler asks the driver of a GPU."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def published() -> Iterator[tuple[str, Kernel]]:
    """All kernels of SAN10, SAN15 and SAN19, whose stages have the same shapes."""
    for stage, (width, size, k) in enumerate(zip(WIDTHS, MAPS, FOOTPRINTS, strict=True)):
        relation, channels = width // PUBLISHED.r1, width // PUBLISHED.r2
        maps = channels // PUBLISHED.share
        merged = torch.empty(1, size, size, 2 * relation + channels, device="meta")
        operands = merged.split([relation, relation, channels], -1)
        kernels = pairwise_kernels(*operands, torch.empty(relation, maps, device="meta"), k)
        for kernel in (*kernels, *aggregation_kernels((1, channels, size, size), maps, k)):
            yield f"{kernel.name} {stage}", kernel


def registers(ptx: str, capability: int) -> dict[str, int]:
    """What the assembler says of the registers of a thread: how many, and bytes that lie in memory."""
    (architecture,) = re.findall(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={architecture}", "-o", "/dev/null", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    patterns = {
        "frame": r"(\d+) bytes stack frame",
        "spilled": r"(\d+) bytes spill stores",
        "used": r"Used (\d+) registers",
    }
    return {name: int(re.findall(pattern, said)[-1]) for name, pattern in patterns.items()}


def needs(name: str, kernel: Kernel, dtype: torch.dtype, capability: int) -> dict[str, Any]:
    compiled = compile_kernel(kernel, dtype)
    return {"name": name, "shared": compiled.metadata.shared, **registers(compiled.asm["ptx"], capability)}


if __name__ == "__main__":
    capability = int(sys.argv[1])
    driver.set_active(Absent(capability))
    for name, kernel in published():
        if name[-1] in sys.argv[3]:
            print(json.dumps(needs(name, kernel, getattr(torch, sys.argv[2]), capability)), flush=True)
