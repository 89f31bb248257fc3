"""A service starts without what takes seconds to import; one that cannot start says why in one line, and ends with 1."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.accounts.keys import Scope, create_key
from service.jobs.store import Store

HEAVY = """
import sys
import models, service.server
models.load("resnet_mini.fashion_mnist")
print(*{"torch._dynamo", "torchvision", "triton"} & set(sys.modules))
"""


def test_a_service_imports_neither_torchvision_nor_a_compiler() -> None:
    assert subprocess.check_output([sys.executable, "-c", HEAVY], text=True).strip() == ""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def why(*arguments: object) -> str:
    """The one line of a command that fails."""
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("withstand: ")
    return line


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--workers", 2],
        pytest.param(["serve"], marks=pytest.mark.thorough),
        pytest.param(["demo", "--detach"], marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_a_file_that_is_no_database(command: list[object], tmp_path: Path) -> None:
    database = tmp_path / "withstand.db"
    database.write_bytes(b"no database" * 1000)
    line = why(*command, "--port", 0, "--data-dir", tmp_path)
    assert f"the database {database} cannot be used: file is not a database; move it aside" in line
    assert database.read_bytes() == b"no database" * 1000


def test_a_database_that_is_damaged_inside(tmp_path: Path) -> None:
    database = tmp_path / "withstand.db"
    Store.at(database).close()
    content = database.read_bytes()
    database.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    line = why("serve", "--port", 0, "--data-dir", tmp_path)
    assert "cannot be used: database disk image is malformed; move it aside" in line


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--port", 0],
        pytest.param(["demo", "--detach", "--port", 0], marks=pytest.mark.thorough),
        pytest.param(
            ["evaluate", "resnet_mini.fashion_mnist", "--dataset", "fashion_mnist_test", "--images", 2],
            marks=pytest.mark.thorough,
        ),
    ],
    ids=str,
)
def test_a_folder_that_cannot_be_one(command: list[object], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    line = why(*command, "--data-dir", file)
    assert f"cannot be stored in {file}" in line
    assert "choose another folder" in line


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_a_port_in_use(workers: int, taken: int, tmp_path: Path) -> None:
    line = why("serve", "--port", taken, "--workers", workers, "--data-dir", tmp_path)
    assert f"cannot listen on 127.0.0.1, port {taken}: Address already in use; " in line
    assert "--port" in line


@pytest.mark.thorough
def test_the_demo_needs_a_key_where_the_database_has_some(tmp_path: Path) -> None:
    with closing(Store.at(tmp_path / "withstand.db")) as store:
        create_key(store.database, "someone", Scope.ADMIN)
    command = [sys.executable, "-m", "cli.main", "demo", "--detach", "--images", "1", "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "401: an API key is needed" in ended.stderr
