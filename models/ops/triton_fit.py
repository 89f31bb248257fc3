"""What the Triton kernels of SAN are compiled for, how they may be started, and whether a GPU can run them, which is tried."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.float32 import float32_meaning

MIN_DOT = 16
"""Smallest inner dimension of a product in Triton."""
MAX_SPILLS = 200
"""Spilled registers of a thread; a kernel with more is assumed to be slower than what it replaces."""
MAX_NUMBERS = 64
"""Most float32 values under taps that a thread may hold: launches that hold more spill, as the compiler reports."""
PIPELINED = ("pairwise_forward", "pairwise_backward_centres")
"""Kernels that compile differently for another number of stages."""
FLOAT32 = ("logsumexp", "row_sums")
"""Operands that are float32 whatever the type of the others."""


class Launch(NamedTuple):
    """How a kernel is started.

    Attributes:
        height: of the tile of pixels of a program.
        width: of that tile.
        warps: of a program.
        taps: that a pairwise kernel computes at once.
        stages: of the pipeline into which the compiler makes loops.
    """

    height: int
    width: int
    warps: int
    taps: int = 1
    stages: int = 2

    def programs(self, images: int, height: int, width: int) -> int:
        """Programs for all tiles of maps."""
        return images * -(-height // self.height) * -(-width // self.width)

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


class Kernel(NamedTuple):
    """What a kernel is compiled for, its types and the GPU aside.

    Attributes:
        name: in `triton_pairwise` or `triton_aggregation`.
        numbers: its arguments after the tensors.
        constants: those after the numbers, by name.
        launch: how it is started, unless another launch is found to be faster.
        results: how many of its tensors it writes, the last ones.
        others: dimensions of the grid after that of the tiles.
    """

    name: str
    numbers: tuple[int, ...]
    constants: tuple[tuple[str, Any], ...]
    launch: Launch
    results: int
    others: tuple[int, ...] = ()

    @property
    def function(self) -> Any:
        """What Triton made of its code."""
        module, _, _ = self.name.partition("_")
        return getattr(import_module(f"models.ops.triton_{module}"), self.name)  # where Triton is missing, nothing fits

    @property
    def all_constants(self) -> dict[str, Any]:
        """Those of the launch included."""
        height, width, _, taps, _ = self.launch
        of_launch = {"BLOCK_H": height, "BLOCK_W": width, "TAPS": taps}
        return {**dict(self.constants), **{key: of_launch[key] for key in of_launch if key in self.function.arg_names}}

    @property
    def tensors(self) -> list[str]:
        """Names of its tensors."""
        names: list[str] = self.function.arg_names
        return names[: len(names) - len(self.numbers) - len(self.all_constants)]

    def start(self, images: int, tensors: Iterable[Tensor]) -> None:
        """Run on the current GPU; on a CPU, in Triton's interpreter."""
        grid = self.launch.programs(images, *self.numbers[-2:]), *self.others
        self.function[grid](*tensors, *self.numbers, **self.all_constants, **self.launch.options)


def pairwise_launch(relation: int, channels: int) -> Launch:
    """Choose the tile so that its sums stay in registers, as the compiler reports for sm_90."""
    size = max(4 * relation, channels)
    if size <= 64:
        return Launch(8, 8, 4) if size <= 16 else Launch(4, 8, 4)
    return Launch(4, 4, 4) if size <= 128 else Launch(4, 4, 8)


def launches(kernel: Kernel, dtype: torch.dtype) -> list[Launch]:
    """Its own launch and, as far as registers allow, what else may be faster: more taps, other warps, larger tiles, more stages."""
    default = kernel.launch
    height, width, warps, _, _ = default
    larger = (2 * height, width) if height < width else (height, 2 * width)
    tiles = [default._replace(warps=12 - warps), Launch(*larger, 8)]
    taps = [default._replace(taps=2), default._replace(taps=4, warps=8)] * kernel.name.startswith("pairwise")
    if kernel.name in PIPELINED:
        taps.append(default._replace(stages=3))
    room = MAX_NUMBERS * 4 // dtype.itemsize
    return [
        default,
        *(each for each in taps if numbers_of_thread(kernel, each) <= room),
        *(each for each in tiles if numbers_of_thread(kernel, each) <= MAX_NUMBERS // 2),
    ]


def numbers_of_thread(kernel: Kernel, launch: Launch) -> int:
    """How many a thread holds, roughly, of what lies under the taps that are computed at once."""
    constants = dict(kernel.constants)
    a_pixel = constants.get("BLOCK_C") or max(4 * constants["RELATION"], constants["GROUPS"] * constants["MAPS"])
    operands = 2 if kernel.name == "pairwise_backward_neighbours" else 1  # values and the gradient to them
    return operands * launch.taps * launch.height * launch.width * a_pixel // (32 * launch.warps)


def aggregation_launch(width: int) -> Launch:
    """Choose the tile so that its rows are runs of memory."""
    across = min(32, max(8, power_of_two(width)))
    return Launch(128 // across, across, 4)


def pairwise_kernels(
    x1: Tensor, x2: Tensor, x3: Tensor, second: Tensor, kernel_size: int
) -> tuple[Kernel, Kernel, Kernel]:
    """Describe the forward kernel and those of the gradients to centres, and to neighbours and values.

    Args:
        x1: centres (N, H, W, R).
        x2: neighbours (N, H, W, R).
        x3: values (N, H, W, C).
        second: (R, D), as in `PairwiseWeights`.
        kernel_size: footprint.
    """
    _, height, width, channels = x3.shape
    relation, distinct = second.shape
    maps = max(MIN_DOT, distinct)
    constants = (
        ("RELATION", relation),
        ("PADDED", max(MIN_DOT, power_of_two(relation))),
        ("DISTINCT", distinct),
        ("MAPS", maps),
        ("GROUPS", channels // maps),
        ("K", kernel_size),
        ("PRECISION", "tf32x3" if x3.dtype == torch.float32 and float32_meaning() == "ieee" else "tf32"),
    )
    numbers = *(pixel_stride(x) for x in (x1, x2, x3)), height, width
    launch = pairwise_launch(relation, channels)
    forward, centres, neighbours = (
        Kernel(f"pairwise_{part}", numbers, constants, launch, results=2)
        for part in ("forward", "backward_centres", "backward_neighbours")
    )
    return forward, centres, neighbours


def aggregation_kernels(shape: tuple[int, ...], maps: int, kernel_size: int) -> tuple[Kernel, Kernel, Kernel]:
    """Describe the forward kernel and those of the gradients to values and weights.

    Args:
        shape: of the values, (N, C, H, W).
        maps: G, of weights.
        kernel_size: footprint.
    """
    _, channels, height, width = shape
    per_map = channels // maps
    block = min(16, power_of_two(per_map))
    constants = ("PER_MAP", per_map), ("K", kernel_size), ("BLOCK_C", block)
    grids = {"forward": -(-per_map // block), "backward_values": -(-per_map // block), "backward_weights": 1}
    forward, of_values, of_weights = (
        Kernel(f"aggregation_{part}", (height, width), constants, aggregation_launch(width), 1, (maps, chunks))
        for part, chunks in grids.items()  # a program takes a chunk of the channels of a map, or all of them
    )
    return forward, of_values, of_weights


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one; without any, the absent one of a test or Triton's interpreter serves."""
    return torch.cuda.device(device) if device.type == "cuda" and torch.cuda.is_available() else nullcontext()


def pixel_stride(x: Tensor) -> int:
    """How far apart the pixels of `_by_pixels(x)` lie."""
    _, height, width, channels = x.shape
    apart = x.stride(2)
    return apart if x.stride() == (height * width * apart, width * apart, apart, 1) else channels


def power_of_two(size: int) -> int:
    """Round up."""
    return 1 << (size - 1).bit_length()


def why_not(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> str:
    """Compile for a GPU, and say why it cannot run there, or nothing."""
    try:
        with torch.cuda.device(device):
            compiled = compile_kernel(kernel, dtype)
            available = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
            if compiled.metadata.shared <= available:
                compiled.run  # noqa: B018  # loads it onto the GPU, which counts its registers
            return shortage(compiled.metadata.shared, available, compiled.n_spills)
    except Exception as error:  # of the compiler, its assembler or the driver: whatever it is, the kernel cannot run
        return f"{type(error).__name__}: {error}"


def shortage(shared: int, available: int, spills: int | None) -> str:
    """Say what a compiled kernel lacks, or nothing.

    Args:
        shared: shared memory that it needs, bytes.
        available: shared memory of one block, bytes.
        spills: spilled registers of a thread; None if the kernel was not loaded.
    """
    if shared > available:
        return f"it needs {shared} bytes of shared memory, {available} are available"
    if spills is not None and spills > MAX_SPILLS:
        return f"it spills {spills} registers of a thread to memory, at most {MAX_SPILLS} are allowed"
    return ""


def compile_kernel(kernel: Kernel, dtype: torch.dtype) -> Any:
    """Compile for the current GPU, as starting it would, and start nothing."""
    before = offsets(kernel)  # an address that is not a multiple of 16 bytes needs another kernel
    tensors = [
        torch.empty(before.get(name, 0) + 1, dtype=torch.float32 if name in FLOAT32 else dtype)[before.get(name, 0) :]
        for name in kernel.tensors
    ]
    return kernel.function.warmup(*tensors, *kernel.numbers, grid=(1,), **kernel.all_constants, **kernel.launch.options)


def offsets(kernel: Kernel) -> dict[str, int]:
    """Numbers before neighbours and values where both lie beside the centres in one map, as the network's do."""
    constants = dict(kernel.constants)
    relation = constants.get("RELATION", 0)
    beside = 2 * relation + constants.get("GROUPS", 0) * constants.get("MAPS", 0)
    return {"x2": relation, "x3": 2 * relation} if kernel.numbers[:-2] == (beside,) * 3 else {}
