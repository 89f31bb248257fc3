"""The queue and the devices of a service as tables that fit a terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from service.http.routes.queue import DeviceList, DeviceView, QueueView, RunningView

NUMBERS = frozenset({"place", "shards", "passes", "done"})
"""Columns that are aligned to the right."""


def print_queue(queue: QueueView, out: Console) -> None:
    """Print what runs, and what waits in which order."""
    if queue.paused:
        out.print("The queue is paused: running shards are finished, no others are started.\n")
    running = [(each.device, each.evaluation, _share(each), _what(each)) for each in queue.running]
    _print_table(out, "runs", ("device", "evaluation", "done", "shard"), running)
    waiting = [
        (
            str(each.place),
            each.evaluation,
            f"{each.priority}{', paused' if each.paused else ''}",
            f"{each.shards:,}",
            f"{each.passes:,}",
        )
        for each in queue.waiting
    ]
    _print_table(out, "waits", ("place", "evaluation", "priority", "shards", "passes"), waiting)
    others = queue.waiting_of_others
    if queue.running_of_others or others.evaluations:
        out.print(
            f"Of others, {queue.running_of_others} shards run, and {others.evaluations} evaluations with {others.shards:,} shards "
            f"and {others.passes:,} passes wait."
        )


def print_devices(devices: DeviceList, out: Console) -> None:
    """Print how the devices are, and what each runs."""
    rows = [
        (
            each.name,
            _state(each),
            each.running.evaluation if each.running else "",
            _share(each.running) if each.running else "",
            _what(each.running) if each.running else "",
        )
        for each in devices.devices
    ]
    _print_table(out, "is there", ("device", "state", "evaluation", "done", "shard"), rows)
    for each in devices.devices:
        if each.problem:
            out.print(f"{each.name}: its process died {each.deaths} times in a row, the last time: {each.problem}")


def _print_table(out: Console, verb: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table if table.row_count else f"Nothing {verb}.")
    out.print()


def _share(running: RunningView) -> str:
    return f"{100 * running.share_done:.0f} %"


def _what(running: RunningView) -> str:
    return f"{running.model}, condition {running.condition}, images {running.start} to {running.start + running.images - 1}"


def _state(device: DeviceView) -> str:
    memory = device.memory
    used = "" if memory is None else f", {memory.used_bytes / 1e9:.1f} of {memory.total_bytes / 1e9:.1f} GB"
    until = "" if device.set_aside_until is None else f" until {device.set_aside_until:%H:%M:%S} UTC"
    return f"{device.state}{until}{used}"
