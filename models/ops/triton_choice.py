"""Chooses the fastest way to start a Triton kernel of SAN on a GPU; it is measured once for each shape and stored.

`triton.autotune` would time whatever it is called with, compile one variant after another, and fail if a measurement fails; it
checks neither for spilled registers nor that all variants compute the same. Here all variants agree, up to rounding.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from models.ops.triton_fit import FLOAT32, Kernel, Launch, compile_kernel, current, launches, offsets, why_not

SECONDS = 30.0
"""Seconds of compiling and measuring in this process after which new shapes use the default launch."""
PIXELS, IMAGES = 2**16, 64
"""Size of the operands that are timed: about this many pixels, at most this many images."""
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 1e-2}
"""How far results may be from the default launch's, in the root mean square: rounding flips single ReLUs."""

Times = tuple[tuple[Launch, float], ...]
"""Launches and their milliseconds, fastest first."""

_log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """What was decided about a kernel.

    Attributes:
        launch: how it is started; None if it cannot be.
        times: what was measured, if anything was.
    """

    launch: Launch | None
    times: Times = ()


_choices: dict[tuple[Kernel, torch.dtype, torch.device], Choice] = {}
_seconds: list[float] = []
_lock = threading.Lock()


def kernels_fit(kernels: tuple[Kernel, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a GPU can run kernels, forward and backward; the first call also chooses how to start them.

    Nothing is compiled while a CUDA graph is captured: the answer is then no, and is not stored. An eager pass must come first.
    """
    if unknown := _unknown(kernels, dtype, device):
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            names = ", ".join(kernel.name for kernel in unknown)
            _log.warning("%s: first met while a CUDA graph was captured: the graph does without", names)
            return False
        with _lock, ThreadPoolExecutor(1) as pool:  # modes of the caller, such as that of fake tensors, end there
            pool.submit(_choose, kernels, dtype, device).result()
    return all(choice_of(kernel, dtype, device).launch for kernel in kernels)


vars(kernels_fit)["_dynamo_marked_constant"] = True
"""What `torch.compiler.assume_constant_result` does, which first imports the whole compiler: seconds for every process."""


def _unknown(kernels: tuple[Kernel, ...], dtype: torch.dtype, device: torch.device) -> list[Kernel]:
    return [kernel for kernel in kernels if (kernel, dtype, device) not in _choices]


def choice_of(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Choice:
    """What `kernels_fit` decided; the default launch if it was never called."""
    return _choices.get((kernel, dtype, device), Choice(kernel.launch))


def chosen(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Kernel:
    """The kernel with the launch that was decided."""
    return kernel._replace(launch=choice_of(kernel, dtype, device).launch or kernel.launch)


def _choose(kernels: tuple[Kernel, ...], dtype: torch.dtype, device: torch.device) -> None:
    began = time.monotonic()
    known = {kernel: _stored(kernel, dtype, device) for kernel in _unknown(kernels, dtype, device)}
    measuring = sum(_seconds) < SECONDS
    with current(device):
        _compile([each for kernel in known for each in _candidates(kernel, known[kernel], dtype, measuring)], dtype)
        for kernel, times in known.items():
            _choices[kernel, dtype, device] = _choice(kernel, times, dtype, device, measuring=measuring)
    _seconds.append(time.monotonic() - began)


def _candidates(kernel: Kernel, times: Times, dtype: torch.dtype, measuring: bool) -> list[Kernel]:
    """What must be compiled: the fastest if it is known, otherwise all that will be measured, or the default."""
    if times:
        return [kernel._replace(launch=times[0][0])]
    return [kernel._replace(launch=launch) for launch in launches(kernel, dtype)] if measuring else [kernel]


def _choice(kernel: Kernel, times: Times, dtype: torch.dtype, device: torch.device, *, measuring: bool) -> Choice:
    best = times[0][0] if times else kernel.launch
    if reason := why_not(kernel._replace(launch=best), dtype, device):
        _log.warning("%s (%s) is not used on %s: %s", kernel, dtype, device, reason)
        return Choice(None)
    try:
        if measuring and not times:
            times = measured(kernel, dtype, device)
            _store(times, kernel, dtype, device)
    except Exception as error:  # of the compiler, the GPU or the disk: the default launch is known to run
        _log.warning("%s (%s) could not be measured or stored on %s: %s", kernel, dtype, device, error)
    return Choice(times[0][0] if times else kernel.launch, times)


def _compile(kernels: Iterable[Kernel], dtype: torch.dtype) -> None:
    """Compile at once, for the compiler lets go of the interpreter; what fails says so when it is asked for."""
    with suppress(Exception):
        from triton import AsyncCompileMode  # noqa: PLC0415

        with ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True):
            for kernel in kernels:
                compile_kernel(kernel, dtype)


def measured(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Times:
    """Time the launches that fit and compute what the default one does, on operands of a realistic size.

    Raises:
        Exception: whatever keeps the default launch from being timed.
    """
    height, width = kernel.numbers[-2:]
    images = min(IMAGES, max(1, PIXELS // (height * width)))
    tensors = operands(kernel, images, dtype, device)
    expected = [x.clone() for x in _results(kernel, images, tensors)]
    times: dict[Launch, float] = {}
    for launch in launches(kernel, dtype):
        variant = kernel._replace(launch=launch)
        if why_not(variant, dtype, device):
            continue
        if agree(_results(variant, images, tensors), expected):
            times[launch] = milliseconds(partial(variant.start, images, tensors))
        else:
            _log.warning("%s (%s) computes something else on %s and is not used", variant, dtype, device)
    return tuple(sorted(times.items(), key=lambda item: item[1]))


def _results(kernel: Kernel, images: int, tensors: list[Tensor]) -> list[Tensor]:
    results = tensors[-kernel.results :]
    for each in results:
        each.fill_(float("nan"))
    kernel.start(images, tensors)
    return results


def agree(ours: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether all results are close; a result that was not written is not."""
    pairs = zip(ours, expected, strict=True)
    return all(bool((a.float() - b).norm() <= TOLERANCES[a.dtype] * b.float().norm()) for a, b in pairs)


def milliseconds(call: Callable[[], None]) -> float:
    """Median time of a call on the current GPU, with cold caches."""
    from triton.testing import do_bench  # noqa: PLC0415

    return cast(float, do_bench(call, warmup=5, rep=20, return_mode="median"))


def operands(kernel: Kernel, images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Random tensors, as vectors, that lie as the network's do: centres, neighbours and values beside each other if they can."""
    generator = torch.Generator(device).manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, (size, scale) in _sizes(kernel, images).items():
        tensor = torch.randn(size, generator=generator, device=device) * scale
        tensors[name] = tensor.to(torch.float32 if name in FLOAT32 else dtype)
    tensors |= {name: tensors["x1"][before:] for name, before in offsets(kernel).items()}
    return [tensors[name] for name in kernel.tensors]


def _sizes(kernel: Kernel, images: int) -> dict[str, tuple[int, float]]:
    """Numbers of every tensor and how large they are."""
    *strides, height, width = kernel.numbers
    pixels = images * height * width
    constants = dict(kernel.constants)
    k = constants["K"]
    if not strides:
        maps = kernel.others[0]
        values, weights = pixels * maps * constants["PER_MAP"], pixels * maps * k**2
        named = {"values": values, "result": values, "gradient": values, "value_gradient": values}
        return {name: (size, 1.0) for name, size in (named | {"weights": weights, "weight_gradient": weights}).items()}
    relation, distinct, maps = (constants[name] for name in ("RELATION", "DISTINCT", "MAPS"))
    channels = constants["GROUPS"] * maps
    sizes = {f"x{i}": pixels * stride for i, stride in enumerate(strides, 1)}
    sizes |= {"table": k**2 * min(height, k) * min(width, k) * relation}
    sizes |= dict.fromkeys(("result", "gradient", "gradient3"), pixels * channels)
    sizes |= dict.fromkeys(("gradient1", "gradient2"), pixels * relation)
    sizes |= dict.fromkeys(FLOAT32, pixels * maps)
    scaled = {"first": relation**2, "second": relation * distinct}
    return {name: (size, 1.0) for name, size in sizes.items()} | {
        name: (size, relation**-0.5) for name, size in scaled.items()
    }


def _stored(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Times:
    """What another process measured; nothing where there is nothing that can be read."""
    with suppress(Exception):
        manager, file = _place(kernel, dtype, device)
        stored = json.loads(Path(manager.get_file(file)).read_text(encoding="utf-8"))
        return tuple((Launch(*launch), ms) for launch, ms in stored)
    return ()


def _store(times: Times, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
    manager, file = _place(kernel, dtype, device)
    manager.put(json.dumps(times), file, binary=False)


def _place(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> tuple[Any, str]:
    """Triton's cache for what the times depend on, and a file there."""
    import triton  # noqa: PLC0415
    from triton.runtime.cache import get_cache_manager  # noqa: PLC0415

    versions = triton.__version__, torch.cuda.get_device_name(device), kernel.function.cache_key
    key = repr((*versions, kernel, launches(kernel, dtype), dtype))
    return get_cache_manager(hashlib.sha256(key.encode()).hexdigest()), f"{kernel.name}.launches.json"
