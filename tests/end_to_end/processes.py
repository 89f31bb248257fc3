"""The command in processes of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from evaluation import Catalog
from withstand import Client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 120.0) -> Any:
    deadline, never = time.monotonic() + timeout_s, Event()
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        never.wait(0.05)
    return result


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and see that it does."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@contextmanager
def server(
    catalog: Catalog, data_dir: Path, log: Path, *options: str
) -> Iterator[tuple["subprocess.Popen[bytes]", Client]]:
    port = free_port()
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--data-dir", str(data_dir), *options]
    command += [f"--model-dir={folder}" for folder in catalog.model_folders]
    command += [f"--dataset-dir={folder}" for folder in catalog.dataset_folders]
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                wait_for(client.ready)
                yield process, client
        finally:
            end(process)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in _read(task / "children").split()]


def alive(pid: int) -> bool:
    state = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return bool(state) and state[0] != b"Z"


def device_processes(pid: int) -> list[int]:
    """The processes of a server that compute shards, as far as they are there."""
    return [child for forking in fork_servers(pid) for child in children(forking) if alive(child)]


def fork_servers(pid: int) -> list[int]:
    """The process from which a server's device processes are forked, if it is there."""
    return [child for child in children(pid) if b"forkserver" in _read(Path(f"/proc/{child}/cmdline"))]


def _read(path: Path) -> bytes:
    """Read a file about a process or a thread; empty if that has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return path.read_bytes()
    return b""
