"""SAN's attention by stage: unfold, what runs without kernels, and the kernels where there is a GPU.

    python -m benchmarks.gpu.san

Measures as benchmarks.san_gpu does, and the patchwise kind as benchmarks.san_core does; a stage that fails says why and does not
end the others. Without a GPU only the last stage, with one image.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import san_core, san_gpu
from benchmarks.gpu.attacks import reason
from benchmarks.san_ops import WIDTHS

BATCH, REPEATS = 16, 10
LAST = len(WIDTHS) - 1

Report = Callable[[], str]


def of_kernels(name: str, make: Callable[..., dict[str, san_gpu.Call]], stage: int, device: torch.device) -> str:
    """One line for each formulation that benchmarks.san_gpu knows, and one for what was chosen for each kernel."""
    calls = make(stage, BATCH, device)
    san_gpu.require_agreement(calls)
    chosen = (san_gpu.decisions(name, stage, dtype, device) for dtype in san_gpu.DTYPES[name])
    return "\n".join([san_gpu.report(f"{name} stage {stage}", calls, REPEATS, device), *chosen])


def of_core(kind: san_core.Kind, stage: int, batch: int, device: torch.device) -> str:
    """One line for each formulation that benchmarks.san_core knows."""
    calls = san_core.cores(kind, stage, batch, device)
    san_core.require_agreement(calls)
    return san_core.report(f"{kind} stage {stage}", calls, REPEATS if device.type == "cuda" else 1, device)


def reports(device: torch.device) -> Iterator[tuple[str, Report]]:
    """All that is measured here."""
    if device.type != "cuda":
        for kind in ("pairwise", "patchwise"):
            yield kind, partial(of_core, kind, LAST, 1, device)
        return
    for name, make in (("pairwise", san_gpu.attentions), ("aggregation", san_gpu.aggregations)):
        for stage in range(LAST + 1):
            yield f"{name} stage {stage}", partial(of_kernels, name, make, stage, device)
    for stage in range(LAST + 1):
        yield f"patchwise stage {stage}", partial(of_core, "patchwise", stage, BATCH, device)


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0, help="begin nothing later than this (default 600)")
    until = time.monotonic() + parser.parse_args().seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        "Forward and gradient: milliseconds, speed-up over unfold, MiB; the patchwise kind's last column is the saving.\n"
    )
    for name, report in reports(device):
        if time.monotonic() > until:
            print(f"{name}: not reached in time", flush=True)
            continue
        try:
            lines = report()
        except Exception as error:
            lines = f"{name}: {reason(error)}"
        print("\n".join(f"    {line}" for line in lines.splitlines()), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
