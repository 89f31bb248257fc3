"""What a machine has for the service, and what is wrong with it. Nothing is made or changed."""

import os
import platform
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import httpx
import torch

from common import counted
from common.cores import cores
from evaluation import Catalog, DatasetError
from models import CheckpointError
from service.jobs.executors import available_devices
from service.preflight import StartError, require_free
from service.settings import PREFIX, Settings
from service.sql.database import StoreError, reach

LEAST_FREE_BYTES = 2**30
"""Space for results and added models below which something is said."""

TIMEOUT_S = 2.0
"""Longest wait for the answer of what listens at the port, seconds."""

PACKAGES = ("withstand", "torchvision", "torchattacks", "fastapi", "uvicorn", "pydantic")

EXTRAS = {
    "parquet": "pyarrow",
    "hub": "timm",
    "grpc": "tritonclient",
    "postgres": "psycopg",
    "slurm": "submitit",
    "ray": "ray",
}
"""Optional parts of the installation, and a module that each brings."""

_OF_COMMANDS = {f"{PREFIX}API_KEY"}


class Finding(NamedTuple):
    """Something that was looked at: what it is about, what was found, and whether it is a problem."""

    topic: str
    found: str
    is_problem: bool = False


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at the machine, its devices, what is installed, the settings, folders, the database and the port."""
    yield from _machine()
    yield from _devices()
    yield from _variables()
    yield from _data_folder(settings.data_dir)
    yield _database(settings.database)
    yield from _models(settings.catalog())
    yield from _datasets(settings.catalog())
    yield _port(settings.host, settings.port)


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    instructions = torch.backends.cpu.get_cpu_capability()
    yield Finding(
        "machine", f"{platform.platform()}, {counted(cores(), 'core')} ({instructions}), {memory:.0f} GiB memory"
    )
    versions = ", ".join(f"{each} {metadata.version(each)}" for each in PACKAGES)
    yield Finding("versions", f"Python {platform.python_version()}, torch {torch.__version__}, {versions}")
    installed = [extra for extra, module in EXTRAS.items() if find_spec(module)]
    yield Finding("extras", ", ".join(installed) or "none is installed")


def _devices() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(index)
        if find_spec("triton") is None:
            yield Finding("devices", "Triton is missing: SAN runs without its GPU kernels, slowly", is_problem=True)
        return
    if shutil.which("nvidia-smi"):
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        yield Finding("devices", f"there is an NVIDIA driver, but torch, which {built}, finds no GPU", is_problem=True)
    yield Finding("devices", f"no GPU; evaluations run on {', '.join(available_devices())}")


def _gpu(index: int) -> Finding:
    """Try a GPU."""
    name = f"cuda:{index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free, whole = torch.cuda.mem_get_info(index)
        right = bool((torch.ones(64, 64, device=name) @ torch.ones(64, 64, device=name) == 64).all())
    except RuntimeError as error:
        return Finding("devices", f"{name} cannot be used: {str(error).splitlines()[0]}", is_problem=True)
    memory = f"{free / 2**30:.0f} of {whole / 2**30:.0f} GiB free"
    described = f"{name}: {properties.name}, compute capability {properties.major}.{properties.minor}, {memory}"
    return Finding("devices", described if right else f"{described}; it multiplies wrongly", is_problem=not right)


def _variables() -> Iterator[Finding]:
    """Name the variables that steer the service, but not their values, some of which are secret."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OF_COMMANDS
    given = sorted(each for each in os.environ if each.upper().startswith(PREFIX))
    yield Finding(
        "settings", f"from the environment: {', '.join(each for each in given if each.upper() in known) or 'none'}"
    )
    for each in given:
        if each.upper() not in known:
            yield Finding(
                "settings", f"{each} is no setting; `docs/settings.md` lists those that there are", is_problem=True
            )


def _data_folder(folder: Path) -> Iterator[Finding]:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("data", f"{folder} cannot be written to: --data-dir names another folder", is_problem=True)
        return
    free = shutil.disk_usage(there).free
    state, only = "" if folder.exists() else ", not there yet", "only " if free < LEAST_FREE_BYTES else ""
    yield Finding("data", f"{folder}{state}, {only}{free / 2**30:.1f} GiB free", is_problem=bool(only))


def _database(where: Path | str) -> Finding:
    try:
        if isinstance(where, str):
            return Finding("database", f"{reach(where)} answers")
        if not where.exists():
            return Finding("database", f"{where}, not there yet")
        with closing(sqlite3.connect(f"{where.absolute().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)) as db:
            (count,) = db.execute("SELECT count(*) FROM evaluations WHERE removed_at IS NULL").fetchone()
    except StoreError as error:
        return Finding("database", str(error), is_problem=True)
    except sqlite3.Error as error:
        return Finding("database", f"{where} cannot be read: {error}", is_problem=True)
    return Finding("database", f"{where}, {counted(count, 'evaluation')}, {where.stat().st_size / 2**20:.1f} MiB")


def _models(catalog: Catalog) -> Iterator[Finding]:
    found = catalog.checkpoints()
    folders = ", ".join(map(str, catalog.model_folders))
    yield Finding("models", f"{counted(len(found), 'checkpoint')} in {folders}", is_problem=not found)
    for name, checkpoint in found.items():
        try:
            checkpoint.card()
        except CheckpointError as error:
            yield Finding("models", f"{name} cannot be used: {error}", is_problem=True)


def _datasets(catalog: Catalog) -> Iterator[Finding]:
    found = catalog.datasets()
    yield Finding("data sets", ", ".join(found) or "none", is_problem=not found)
    for name in found:
        try:
            catalog.open_dataset(name)
        except DatasetError as error:
            yield Finding("data sets", f"{name} cannot be used: {error}", is_problem=True)


def _port(host: str, port: int) -> Finding:
    try:
        require_free(host, port, f"--port or {PREFIX}PORT")
    except StartError as error:
        if _serves(host, port):
            return Finding("port", f"{host}, port {port}: a service of this kind answers there")
        return Finding("port", str(error), is_problem=True)
    return Finding("port", f"{host}, port {port} is free")


def _serves(host: str, port: int) -> bool:
    """Whether what listens there is a service like this one."""
    name = f"[{host}]" if ":" in host else host
    try:
        answer = httpx.get(f"http://{name}:{port}/healthz", timeout=TIMEOUT_S, trust_env=False)
        return answer.is_success and answer.json() == {"status": "alive"}
    except (httpx.HTTPError, ValueError):
        return False
