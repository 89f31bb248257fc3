"""A real Ray cluster on this machine, in a network of its own where the system allows that."""

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from service.cluster.cluster import RayCluster
from tests.server import until

ROOT = Path(__file__).parents[3]
RAY = Path(sys.executable).parent / "ray"
ADDRESS = "10.99.0.1"
TOKEN = secrets.token_hex(32)
NEW_NETWORK = 0x40000000
STORE_BYTES = 80_000_000
QUICK = '{"health_check_period_ms": 300, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 300}'
"""A node that ends is noticed in a second, not in half a minute."""

HEAD_ID = "f" * 51 + "00000"
AUTOSCALING = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
"""Variables of a head whose autoscaler starts nodes on this machine, as Ray's own tests have them."""

AUTOSCALER = {
    "cluster_name": "here",
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
        "disable_node_updaters": True,
    },
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.05,
    "upscaling_speed": 100,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    **{
        f"{each}_commands": []
        for each in ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")
    },
}


def _node_types(most: int) -> dict[str, Any]:
    worker = {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}
    return {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": most},
    }


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

    def start_autoscaling_head(self, most: int) -> subprocess.Popen[bytes]:
        """Start a head that computes nothing, and whose autoscaler starts nodes here that say they have a GPU, at most so many."""
        self.port = 6379  # at which Ray's provider of such nodes has them look for the head
        config = self.folder / "autoscaler.json"
        config.write_text(json.dumps(AUTOSCALER | {"max_workers": most, "available_node_types": _node_types(most)}))
        return self._start(
            "--head", "--num-cpus=0", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}",
            f"--ray-client-server-port={self.client_port}", "--disable-usage-stats", f"--autoscaling-config={config}",
            **AUTOSCALING,
        )  # fmt: skip

    def start_node(self) -> subprocess.Popen[bytes]:
        return self._start(f"--address={self.head}", "--num-cpus=1")

    def _start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--block", f"--node-ip-address={self.address}", "--num-gpus=0", *options]
        process = subprocess.Popen(
            [*command, f"--object-store-memory={STORE_BYTES}"],
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "token"} | environment,
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

    def raylets(self) -> int:
        """How many nodes run here, the head among them."""
        below = [str(each) for process in self.running for each in _below(process.pid)]
        names = subprocess.run(["ps", "-o", "comm=", "-p", ",".join(below)], capture_output=True, text=True, check=True)
        return names.stdout.split().count("raylet")

    def kill_all(self) -> None:
        for process in [*self.running]:
            self.kill(process)


@contextmanager
def started() -> Iterator[Nodes]:
    """Ports and a folder for a cluster of which nothing runs yet; all of it ends with the block."""
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    with own_network() as address, TemporaryDirectory(prefix="ray-") as folder:  # a short path: sockets lie below it
        with socket.create_server((address, 0)) as one, socket.create_server((address, 0)) as other:
            ports = [each.getsockname()[1] for each in (one, other)]
        nodes = Nodes(address, Path(folder), *ports)
        try:
            yield nodes
        finally:
            nodes.kill_all()
            until(lambda: not kill_all_with(TOKEN))
    del os.environ["RAY_AUTH_TOKEN"]


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
