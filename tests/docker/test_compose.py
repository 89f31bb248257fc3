"""The compose files: what they start, how the parts find each other, and what containers may do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings
from tests.docker.compose import services
from tests.docker.dockerfile import DOCKERFILE, FOLDER, ROOT, TARGETS, last, stage, variables

KEY = "a-long-random-text"
CLUSTER_FILE = "compose.cluster.yaml"
SECRETS = {"WITHSTAND_API_KEYS": json.dumps([KEY]), "POSTGRES_PASSWORD": "secret", "RAY_AUTH_TOKEN": "t" * 32}

# compose.yaml


@pytest.mark.parametrize("name", ["server", "gpu"])
def test_compose_and_image_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = services(WITHSTAND_API_KEYS=json.dumps([KEY]))[name]
    assert (FOLDER / service["build"]["context"]).resolve() == ROOT
    assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
    target = service["build"]["target"]
    assert target in TARGETS
    assert service["image"] == f"withstand:{target}"

    for variable in [each for each in os.environ if each.startswith("WITHSTAND_")]:
        monkeypatch.delenv(variable)
    for variable, value in (variables(target) | service["environment"]).items():
        if variable != "PATH":
            monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert settings.api_keys == {KEY}
    assert service["ports"] == [f"127.0.0.1:8000:{settings.port}"]
    (source, data), *mounts = [tuple(each.rsplit(":", 1)) for each in service["volumes"]]
    assert (source, Path(data)) == ("data", settings.data_dir)
    folders = [*settings.model_dirs, *settings.dataset_dirs]
    assert mounts == [(f"./{folder.name}:{folder}", "ro") for folder in folders]


@pytest.mark.parametrize("name", ["server", "gpu"])
def test_compose_gives_a_container_no_more_than_it_needs(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


def test_containers_may_call_each_service_by_its_name() -> None:
    for service in services().values():
        assert set(json.loads(service["environment"]["WITHSTAND_ALLOWED_HOSTS"])) == set(services())


def test_compose_will_not_start_without_keys() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    message = re.search(r"WITHSTAND_API_KEYS: \$\{WITHSTAND_API_KEYS:\?(.+)\}", text)
    assert message is not None
    assert "JSON list" in message[1]


def test_only_the_gpu_service_asks_for_gpus() -> None:
    server, gpu = services()["server"], services()["gpu"]
    assert "deploy" not in server
    assert gpu["build"]["target"] == "cuda"
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert services(TARGET="cuda")["server"]["image"] == "withstand:cuda"


# compose.cluster.yaml


def test_the_parts_of_a_cluster_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = services(CLUSTER_FILE, **SECRETS)
    server, head, node = (cluster[name] for name in ("server", "head", "node"))
    for variable in [each for each in os.environ if each.startswith("WITHSTAND_")]:
        monkeypatch.delenv(variable)
    for variable, value in (variables("cpu") | server["environment"]).items():
        if variable.startswith("WITHSTAND_"):
            monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.api_keys == {KEY}
    assert settings.database_url == "postgresql://withstand:secret@database/withstand"
    assert settings.ray_address == "ray://head:10001"
    assert "--ray-client-server-port=10001" in head["command"].split()
    assert "--address=head:6379" in node["command"].split()
    assert {each["image"] for each in (server, head, node)} == {"withstand:cpu"}
    for each in (server, head, node):
        assert each["environment"]["RAY_AUTH_MODE"] == "token"
        assert each["environment"]["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"]
        assert f"store:{settings.store_url}" in each["volumes"]
    assert settings.ray_cache_dir.is_relative_to(last("cpu", "VOLUME"))
    assert any(f"{settings.store_url}" in each.rest.split() for each in stage("cpu") if each.keyword == "RUN")


def test_a_cluster_publishes_the_server_alone_and_gives_containers_no_more_than_they_need() -> None:
    for name, service in services(CLUSTER_FILE, **SECRETS).items():
        assert ("ports" in service) == (name == "server")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name != "database":
            assert service["read_only"] is True
            assert "cap_add" not in service


def test_the_commands_of_a_cluster_are_known_to_ray() -> None:
    known = subprocess.run(
        [Path(sys.executable).parent / "ray", "start", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("head", "node"):
        ray, start, *options = services(CLUSTER_FILE, **SECRETS)[name]["command"].split()
        assert (ray, start) == ("ray", "start")
        assert [each for each in options if each.partition("=")[0] not in known] == []
