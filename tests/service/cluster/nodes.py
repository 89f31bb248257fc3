"""A real Ray cluster on this machine, in a network of its own where the system allows that."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from service.cluster.cluster import RayCluster

ROOT = Path(__file__).parents[3]
RAY = Path(sys.executable).parent / "ray"
ADDRESS = "10.99.0.1"
NEW_NETWORK = 0x40000000
STORE_BYTES = 80_000_000
QUICK = '{"health_check_period_ms": 300, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 300}'
"""A node that ends is noticed in a second, not in half a minute."""


@contextmanager
def own_network() -> Iterator[str]:
    """Give this thread, and what it starts, a network without other machines; gives an address of this machine in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(NEW_NETWORK) != 0:  # not allowed: among the others, behind a token
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("192.0.2.1", 9))
                yield probe.getsockname()[0]
            return
        try:
            for command in (
                f"addr add {ADDRESS}/24 dev lo",
                "link set lo up",
            ):  # Ray takes no loopback address for a node's
                subprocess.run(["ip", *command.split()], check=True)
            yield ADDRESS
        finally:
            assert libc.setns(before, NEW_NETWORK) == 0
    finally:
        os.close(before)


@dataclass
class Nodes:
    """Starts a head with two devices and nodes with one, and ends them as a machine ends that loses its power."""

    address: str
    folder: Path
    port: int
    client_port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def head(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def client(self) -> str:
        return f"ray://{self.address}:{self.client_port}"

    def start_head(self) -> subprocess.Popen[bytes]:
        return self._start(
            "--head", "--num-cpus=2", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}",
            f"--system-config={QUICK}", f"--ray-client-server-port={self.client_port}", "--disable-usage-stats",
        )  # fmt: skip

    def start_node(self) -> subprocess.Popen[bytes]:
        return self._start(f"--address={self.head}", "--num-cpus=1")

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--block", f"--node-ip-address={self.address}", "--num-gpus=0", *options]
        process = subprocess.Popen(
            [*command, f"--object-store-memory={STORE_BYTES}"],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node at once."""
        for each in [*_below(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
        self.running.remove(process)

    def kill_all(self) -> None:
        for process in [*self.running]:
            self.kill(process)


def kill_all_with(secret: str) -> bool:
    """Kill what was started with a secret in its environment; returns whether there was anything."""
    found = False
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if secret.encode() in file.read_bytes():
                os.kill(int(file.parent.name), signal.SIGKILL)
                found = True
    return found


def _below(pid: int) -> list[int]:
    """Every process that one has started, and those that they have."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    found = [int(each) for each in children.stdout.split()]
    return found + [each for child in found for each in _below(child)]


@contextmanager
def connected(address: str, cache: Path, wanted: Event | None = None, **options: Any) -> Iterator[RayCluster]:
    cluster = RayCluster(address, **({"store": None, "cache": cache, "timeout_s": 60.0} | options))
    if wanted is None:
        wanted = Event()
        wanted.set()
    cluster.start(wanted)
    try:
        yield cluster
    finally:
        cluster.stop()
