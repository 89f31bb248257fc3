"""What can be known of the images without an engine: lint, names, and every command of theirs run in a clean folder."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.docker.compose import services
from tests.docker.dockerfile import (
    DOCKERFILE,
    FOLDER,
    ROOT,
    TARGETS,
    copy_context,
    is_ignored,
    last,
    stage,
    stages,
    variables,
)

BIN = Path(sys.executable).parent
KEY = "a-long-random-text"
START_DEADLINE_S = 180.0
STOP_DEADLINE_S = 30.0


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's variables without those that steer Python, uv or the service."""
    steering = ("PYTHON", "UV_", "VIRTUAL_ENV", "WITHSTAND_")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)} | changes


# The files themselves


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("there is no hadolint binary for this platform")
    found = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "compose.cluster.yaml", "README.md"])
def test_every_variable_is_a_setting(name: str) -> None:
    named = set(re.findall(r"WITHSTAND_[A-Z_]+", (FOLDER / name).read_text()))
    assert named
    assert {variable.removeprefix("WITHSTAND_").lower() for variable in named} <= Settings.model_fields.keys()


def test_readme_names_targets_and_services_that_exist() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"--target (\w+)", text)) == set(TARGETS)
    assert set(re.findall(r"up --build (\w+)", text)) == services().keys()


def test_the_plain_build_is_the_small_one() -> None:
    assert list(stages(DOCKERFILE.read_text()))[-1] == "cpu"


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_the_service_as_nobody_in_particular(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert min(int(user), int(group)) >= 1000
    assert [each.keyword for each in stage(target)][-1] == "USER"
    assert last(target, "VOLUME") == variables(target)["WITHSTAND_DATA_DIR"]
    assert last(target, "EXPOSE") == variables(target)["WITHSTAND_PORT"]
    assert variables(target)["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_are_installed_before_the_source_is_there(target: str) -> None:
    *_, dependencies, application = steps = [each for each in stage(target) if each.keyword in {"COPY", "RUN"}]
    assert dependencies.command == "sh docker/install.sh dependencies"
    assert application.command == "sh docker/install.sh application"
    assert [source for each in steps[:-1] for source in each.sources] == [
        "pyproject.toml",
        "requirements.lock",
        "docker/install.sh",
    ]
    assert application.sources == ["."]


def test_only_the_cpu_image_leaves_the_locked_build_of_torch() -> None:
    assert variables("cpu", "ARG")["UV_TORCH_BACKEND"] == "cpu"
    assert "UV_TORCH_BACKEND" not in variables("cuda", "ARG")


# What a build is given, and what it makes of it


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        ".withstand/withstand.db",
        "docker/models/mine.safetensors",
        "service/__pycache__/app.cpython-311.pyc",
        "tests/conftest.py",
        "zoo/data/fashion_mnist.npz",
        "zoo/runs/resnet_mini.pt",
    ],
)
def test_a_build_is_not_given(path: str) -> None:
    assert is_ignored(path)


@pytest.mark.parametrize(
    "path",
    ["pyproject.toml", "requirements.lock", "README.md", "LICENSE", "docker/install.sh", "service/web/static/page.js"]
    + [
        f"zoo/{folder}/{name}"
        for folder in ("checkpoints", "datasets")
        for name in ("a.safetensors", "a.json", "a.zip")
    ],
)
def test_a_build_is_given(path: str) -> None:
    assert not is_ignored(path)


def test_the_wheel_holds_the_packages_and_the_zoo_and_nothing_else(tmp_path: Path) -> None:
    source, dist = tmp_path / "source", tmp_path / "dist"
    copied = copy_context(source)
    for folder in ("data", "runs"):
        (source / "zoo" / folder).mkdir()
        (source / "zoo" / folder / "large.npz").touch()
    (source / "zoo" / "__init__.py").chmod(0o600)
    build = [find_uv(), "build", "--quiet", "--wheel", "--out-dir", dist]
    subprocess.run(build, cwd=source, env=clean_environment(), check=True)

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
    code = {name: mode for name, mode in held.items() if ".dist-info/" not in name}
    assert code.keys() == {path for path in copied if path.partition("/")[0] in packages}
    assert {path for path in code if path.endswith(".safetensors")}
    assert "zoo/datasets/fashion_mnist_test.zip" in code
    assert all(mode & stat.S_IROTH for mode in held.values()), "the container's user does not own what it reads"


@pytest.mark.parametrize(("backend", "verified"), [(None, True), ("", True), ("cpu", False), ("cu126", False)])
def test_hashes_are_verified_unless_another_torch_is_asked_for(
    tmp_path: Path, backend: str | None, verified: bool
) -> None:
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "$*, ${UV_TORCH_BACKEND-none}"\n')
    uv.chmod(0o755)
    environment = clean_environment(PATH=f"{tmp_path}:{os.environ['PATH']}", VIRTUAL_ENV="/opt/withstand")
    if backend is not None:
        environment["UV_TORCH_BACKEND"] = backend
    command = ["sh", FOLDER / "install.sh", "dependencies"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    _, install = said.splitlines()
    assert install.startswith("pip install --python /opt/withstand ")
    assert "--constraint requirements.lock" in install
    assert "--group" not in install
    assert ("--no-verify-hashes" not in install) == verified
    assert install.endswith(f", {backend or 'none'}")


def test_install_refuses_an_unknown_step() -> None:
    ended = subprocess.run(["sh", FOLDER / "install.sh", "all"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "got 'all'" in ended.stderr


# The commands


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_image_refuses_to_serve_without_keys(tmp_path: Path) -> None:
    environment = container_environment(BIN.parent, tmp_path)
    command = json.loads(last("cpu", "CMD"))
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 2
    assert "WITHSTAND_API_KEYS" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_image_installs_and_serves(tmp_path: Path) -> None:
    prefix = tmp_path / "environment"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    try:
        zoo = install(prefix, tmp_path)
        assert_locked(prefix)
        environment = container_environment(prefix, tmp_path, WITHSTAND_API_KEYS=json.dumps([KEY]))
        with serving(environment, elsewhere) as url:
            assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
            answer = httpx.get(f"{url}/v1/models", headers={"X-API-Key": KEY}, trust_env=False)
            assert answer.status_code == 200
            assert {each["name"] for each in answer.json()} == zoo
        assert not is_healthy(environment, elsewhere)
        assert (tmp_path / "data" / "withstand.db").exists()
        assert not list(elsewhere.iterdir()), "the image's file system is read-only: everything goes to the data folder"
    finally:
        shutil.rmtree(prefix, ignore_errors=True)  # several gigabytes


def install(prefix: Path, tmp_path: Path) -> set[str]:
    """Run the installing lines of the CUDA image as they stand there; returns the names of the zoo's models.

    The sources are gone afterwards. A torch build chosen for this whole environment (UV_TORCH_BACKEND) is chosen here too.
    """
    environment = clean_environment(VIRTUAL_ENV=str(prefix))
    environment["PATH"] = os.pathsep.join([str(BIN), str(Path(find_uv()).parent), environment["PATH"]])
    environment |= {name: os.environ[name] for name in ("UV_TORCH_BACKEND", "UV_CACHE_DIR") if name in os.environ}
    steps = [each for each in stage("cuda") if each.sources]
    *early, application = steps
    few, all_ = tmp_path / "few", tmp_path / "all"
    copy_context(few, [source for each in early for source in each.sources])
    copied = copy_context(all_, application.sources)
    for folder, step in ((few, early[-1]), (all_, application)):
        ended = subprocess.run(
            ["sh", "-c", step.command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert folder == few or sorted(copied) == sorted(
            path.relative_to(all_).as_posix() for path in all_.rglob("*") if path.is_file()
        ), "the sources are mounted read-only"
        shutil.rmtree(folder)
    return {Path(path).stem for path in copied if re.fullmatch(r"zoo/checkpoints/.*\.safetensors", path)}


def assert_locked(prefix: Path) -> None:
    """What is installed is what is locked, and nothing that only development needs."""
    locked = set(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    command = [find_uv(), "pip", "list", "--format", "json", "--python", prefix / "bin" / "python"]
    listed = json.loads(subprocess.run(command, env=clean_environment(), capture_output=True, check=True).stdout)
    installed = {each["name"]: each["version"].partition("+")[0] for each in listed}
    assert installed.pop("withstand")
    assert installed.items() <= locked
    assert "pytest" not in installed


def find_uv() -> str:
    found = shutil.which("uv", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, "uv is needed, which `make install` puts beside Python"
    return found


def container_environment(prefix: Path, tmp_path: Path, **more: str) -> dict[str, str]:
    """The image's variables, with its Python, port and data folder replaced by those given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    replaced = {
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(prefix),
        "WITHSTAND_PORT": str(port),
        "WITHSTAND_DATA_DIR": str(tmp_path / "data"),
    }
    assert replaced.keys() <= variables("cuda").keys()
    return clean_environment(**variables("cuda")) | replaced | more


@contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run the image's command until its health check is content; it must end by itself when told to."""
    assert not is_healthy(environment, folder)
    log = folder.parent / "server.log"
    command = json.loads(last("cuda", "CMD"))
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while not is_healthy(environment, folder):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{environment['WITHSTAND_PORT']}"
        server.terminate()
        assert server.wait(STOP_DEADLINE_S) in {0, -signal.SIGTERM}, log.read_text()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def is_healthy(environment: dict[str, str], folder: Path) -> bool:
    """What the image's own health check says."""
    command = json.loads(last("cuda", "HEALTHCHECK").partition("CMD ")[2])
    return subprocess.run(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL, check=False).returncode == 0
