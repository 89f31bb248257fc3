"""What can be known of the chart without a cluster: it renders, Kubernetes' schemas accept it, and it agrees with the service."""

import json
import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.http.routes import health
from service.settings import PREFIX, Settings
from tests.docker.dockerfile import ROOT, last, variables
from tests.docker.helm import (
    CASES,
    CHART,
    KEYS,
    NAMESPACE,
    SECRETS,
    HelmError,
    containers,
    environment,
    every_case,
    installed,
    lint,
    matches,
    needs_helm,
    notes,
    pods,
    render,
    values,
)

OLDEST = "1.27"
"""Of Kubernetes, as Chart.yaml says."""

OTHERS = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "POSTGRES_USER", "POSTGRES_PASSWORD"}
EVERYTHING = {
    "Deployment/withstand", "Service/withstand", "PersistentVolumeClaim/withstand-data", "PersistentVolumeClaim/withstand-store",
    "StatefulSet/withstand-database", "Service/withstand-database", "NetworkPolicy/withstand-database",
    "RayCluster/withstand", "NetworkPolicy/withstand-ray",
}  # fmt: skip
DATABASE = {each for each in EVERYTHING if each.endswith("-database")}
RAY = {"RayCluster/withstand", "NetworkPolicy/withstand-ray", "PersistentVolumeClaim/withstand-store"}

# The files


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_values_are_those_of_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values(), schema)

    def paths(node: Any, name: str = "") -> Iterator[str]:
        for key, each in node["properties"].items() if "properties" in node else ():
            yield f"{name}.{key}"
            yield from paths(each, f"{name}.{key}")

    def found(node: Any, name: str = "") -> Iterator[str]:
        for key, each in node.items() if isinstance(node, dict) else ():
            yield f"{name}.{key}"
            yield from found(each, f"{name}.{key}")

    known = {each for each in paths(schema) if not each.startswith((".settings.", ".ray.workers.image."))} - {".global"}
    given = {each for each in found(values()) if ".resources." not in each}
    assert given == known


def test_every_setting_is_in_the_schema_or_set_by_the_chart_itself() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {*schema["properties"]["settings"]["properties"]}
    own = {
        "host",
        "port",
        "grpc_port",
        "data_dir",
        "database_url",
        "model_dirs",
        "dataset_dirs",
        "ray_address",
        "store_url",
    }
    own |= {"ray_cache_dir", "ray_max_gpus", "allowed_hosts", "api_keys", "admin_keys", "webhook_secret"}
    assert free | own == Settings.model_fields.keys()
    assert not free & own
    written = "".join(path.read_text() for path in (CHART / "templates").glob("*.yaml"))
    named = {each.lower() for each in re.findall(r"WITHSTAND_([A-Z_]+[A-Z])\b", re.sub(" # .*", "", written))}
    assert own - named == {"host", "port", "grpc_port", "data_dir"}, "the image sets these; gRPC has no port here"


# What is installed


@needs_helm
def test_helm_has_nothing_to_say() -> None:
    assert lint(KEYS) == []


@needs_helm
@pytest.mark.parametrize(
    ("case", "missing", "more"),
    [
        ("default", set(), set()),
        ("external database", DATABASE, set()),
        ("sqlite", DATABASE, set()),
        ("no ray", RAY, set()),
        ("ingress", set(), {"Ingress/withstand"}),
        ("service monitor", set(), {"ServiceMonitor/withstand"}),
        ("object storage", {"PersistentVolumeClaim/withstand-store"}, set()),
        ("own claims", {"PersistentVolumeClaim/withstand-store", "PersistentVolumeClaim/withstand-data"}, set()),
        ("open network", {"NetworkPolicy/withstand-ray", "NetworkPolicy/withstand-database"}, set()),
    ],
)
def test_a_switch_installs_no_more_than_it_says(case: str, missing: set[str], more: set[str]) -> None:
    assert missing < EVERYTHING
    assert installed(case).keys() == EVERYTHING - missing | more


@needs_helm
@pytest.mark.parametrize(
    ("case", "version"), [*((case, kubernetes_validate.latest_version()) for case in CASES), ("ingress", OLDEST)]
)
def test_kubernetes_accepts_what_is_installed(case: str, version: str) -> None:
    for each in installed(case).values():
        if each["kind"] not in {"RayCluster", "ServiceMonitor"}:
            accept(json.dumps(each), version)
    for each in pods(case).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": each["metadata"], "spec": each["spec"]}
        accept(json.dumps(pod), version)


@cache
def accept(manifest: str, version: str) -> None:
    """What several sets of values install is compared with the schema once."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@needs_helm
@every_case
def test_the_server_starts_with_its_variables(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name for part in pods(case) for name in environment(case, part)}
    settings = {name.removeprefix(PREFIX).lower() for name in named - OTHERS}
    assert settings <= Settings.model_fields.keys()
    for name, value in (variables("cpu") | environment(case)).items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    read = Settings()
    assert read.host == "0.0.0.0"
    assert {"withstand", f"withstand.{NAMESPACE}.svc"} < {*read.allowed_hosts}
    assert (read.ray_address == "ray://withstand-head-svc:10001") == (case != "no ray")
    assert read.database_url == {
        "external database": SECRETS["WITHSTAND_DATABASE_URL"],
        "sqlite": None,
    }.get(case, "postgresql://withstand:hex@withstand-database/withstand")
    assert read.store_url == {"object storage": "s3://bucket/folder", "no ray": None}.get(case, "/store")
    assert read.ray_max_gpus == {"gpu": 16, "cpu workers": None, "no ray": None}.get(case, 4)


@needs_helm
def test_settings_arrive_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("settings").items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (read.log_format, read.max_body_bytes, read.keep_days) == ("json", 2**30, 0.5)
    assert read.webhook_hosts == {"a.b"}


@needs_helm
@every_case
def test_ports_and_probes_are_those_of_the_server(case: str) -> None:
    (server,) = pods(case)["server"]["spec"]["containers"]
    (port,) = server["ports"]
    assert str(port["containerPort"]) == variables("cpu")["WITHSTAND_PORT"]
    probes = [server[each]["httpGet"] for each in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {each["port"] for each in probes} == {port["name"]}
    assert {each["path"] for each in probes} == {route.path for route in health.probes.routes}  # pyright: ignore
    assert probes[1]["path"] == "/healthz", "a server is not killed because its database is away"
    grace = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["server"]["stop_grace_period"]
    assert f"{pods(case)['server']['spec']['terminationGracePeriodSeconds']}s" == grace


@needs_helm
@every_case
def test_images_have_the_version(case: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {part: each["spec"]["containers"][0]["image"] for part, each in pods(case).items()}
    worker = "0.1.0-cuda" if case == "gpu" else version
    database = images.pop("database", None)
    assert images.pop("ray-worker", f"withstand:{worker}") == f"withstand:{worker}"
    assert {*images.values()} == {f"withstand:{version}"}
    compose = yaml.safe_load((ROOT / "docker" / "compose.cluster.yaml").read_text())
    assert database in {None, compose["services"]["database"]["image"]}


@needs_helm
@every_case
def test_no_secret_is_written_down(case: str) -> None:
    assert not [each for each in installed(case) if each.startswith("Secret/")]
    for container in containers(case):
        for each in container["env"]:
            is_secret = re.search("KEYS|TOKEN|PASSWORD|SECRET", each["name"]) is not None
            assert is_secret <= ("valueFrom" in each), each
    written = json.dumps(render(KEYS | CASES[case]))
    assert not re.search(r"://[^/\"]*:(?!\$\(POSTGRES_PASSWORD\))[^/\"]*@", written)


@needs_helm
@every_case
def test_pods_may_do_no_more_than_they_need(case: str) -> None:
    uid, _, gid = last("cpu", "USER").partition(":")
    for part, pod in pods(case).items():
        of_pod = pod["spec"]["securityContext"]
        assert of_pod["runAsNonRoot"] is True
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        if part != "database":
            assert (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (int(uid), int(gid), int(gid))
        assert pod["spec"]["enableServiceLinks"] is False, "a Service named withstand would set WITHSTAND_PORT"
        if part != "ray-head":  # where Ray's autoscaler asks Kubernetes for pods
            assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert container["livenessProbe"]
            assert container["readinessProbe"]


@needs_helm
@every_case
def test_what_is_mounted_is_there(case: str) -> None:
    there = installed(case)
    claims = {name.partition("/")[2] for name in there if name.startswith("PersistentVolumeClaim/")}
    for part, pod in pods(case).items():
        (container,) = pod["spec"]["containers"]
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        from_templates = {"database"} if part == "database" else set()
        assert mounted.keys() == volumes.keys() | from_templates
        used = {
            each["persistentVolumeClaim"]["claimName"] for each in volumes.values() if "persistentVolumeClaim" in each
        }
        assert used <= claims | ({"data", "store", "m", "d"} if case == "own claims" else set())
        if part != "database":
            assert mounted["data"] == last("cpu", "VOLUME")
            assert mounted["tmp"] == "/tmp"
    store = "PersistentVolumeClaim/withstand-store"
    assert store not in there or there[store]["spec"]["accessModes"] == ["ReadWriteMany"]


@needs_helm
def test_only_the_release_reaches_ray_and_only_the_server_the_database() -> None:
    there = installed("default")
    parts = {part: each["metadata"]["labels"] for part, each in pods("default").items()}
    stranger = {"app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "server"}
    for name, guarded, allowed in (
        ("NetworkPolicy/withstand-ray", {"ray-head", "ray-worker"}, {"server", "ray-head", "ray-worker"}),
        ("NetworkPolicy/withstand-database", {"database"}, {"server"}),
    ):
        policy = there[name]["spec"]
        assert {part for part, labels in parts.items() if matches(policy["podSelector"], labels)} == guarded
        ((rule,),) = [[peer for rule in policy["ingress"] for peer in rule["from"]]]
        assert {part for part, labels in parts.items() if matches(rule["podSelector"], labels)} == allowed
        assert not matches(rule["podSelector"], stranger)


@needs_helm
def test_services_and_the_monitor_select_the_pods() -> None:
    there = installed("service monitor")
    for name, part in (("Service/withstand", "server"), ("Service/withstand-database", "database")):
        selector = {"matchLabels": there[name]["spec"]["selector"]}
        selected = [each for each, pod in pods("default").items() if matches(selector, pod["metadata"]["labels"])]
        assert selected == [part]
    monitor = there["ServiceMonitor/withstand"]
    monitored = [
        name
        for name, each in there.items()
        if name.startswith("Service/") and matches(monitor["spec"]["selector"], each["metadata"]["labels"])
    ]
    assert monitored == ["Service/withstand"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["authorization"] == {"credentials": {"name": "scrape", "key": "key"}}


# Ray


@needs_helm
@pytest.mark.parametrize(
    ("case", "worker", "least", "most"),
    [
        ("default", {"CPU": 4, "GPU": 1}, 0, 4),
        ("gpu", {"CPU": 4, "GPU": 2}, 1, 8),
        ("cpu workers", {"CPU": 4}, 3, 3),
    ],
)
def test_rays_own_autoscaler_reads_the_cluster_as_it_is_meant(
    case: str, worker: dict[str, int], least: int, most: int
) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config  # noqa: PLC0415  it takes seconds

    cluster = deepcopy(installed(case)["RayCluster/withstand"])
    cluster["metadata"]["namespace"] = NAMESPACE
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    head, workers = (read["available_node_types"][each] for each in ("headgroup", "workers"))
    assert {name: head["resources"].get(name, 0) for name in ("CPU", "GPU")} == {"CPU": 0, "GPU": 0}
    assert {
        name: amount for name, amount in workers["resources"].items() if name in {"CPU", "GPU"} and amount
    } == worker
    assert (workers["min_workers"], workers["max_workers"]) == (least, most)
    assert cluster["spec"].get("enableInTreeAutoscaling", False) == (least < most)
    assert ("WITHSTAND_RAY_MAX_GPUS" in environment(case)) == (least < most)


@needs_helm
def test_ray_knows_its_options_and_asks_for_the_token() -> None:
    from ray.scripts.scripts import start  # noqa: PLC0415  it takes seconds

    spec = installed("default")["RayCluster/withstand"]["spec"]
    known = {option for each in start.params for option in each.opts}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert [each for each in group["rayStartParams"] if f"--{each}" not in known] == []
        assert all(isinstance(each, str) for each in group["rayStartParams"].values())
    token = [{"name": "RAY_AUTH_MODE", "value": "token"}]
    token += [{"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "RAY_AUTH_TOKEN"}}}]
    for each in (spec["autoscalerOptions"]["env"], *(container["env"] for container in containers("default"))):
        assert all(variable in each for variable in token) or {"name": "POSTGRES_USER", "value": "withstand"} in each


# Values that are wrong


@needs_helm
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"secret": ""}, "name a Secret that has WITHSTAND_API_KEYS"),
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"settings": {"keepdays": 3}}, "/settings': additional properties 'keepdays' not allowed"),
        ({"settings": {"api_keys": ["text"]}}, "/settings': additional properties 'api_keys' not allowed"),
        ({"settings": {"keep_days": None, "log_format": {}}}, "/settings/log_format': got object, want"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy.*must be one of 'Always', 'IfNotPresent', 'Never'"),
        ({"ray": {"workers": {"gpus": "one"}}}, "gpus.*got string, want integer"),
        ({"data": {"size": "plenty"}}, "data/size.*does not match pattern"),
        ({"store": {"url": "/store"}}, "store/url.*does not match pattern"),
        ({"ingress": {"enabled": True}}, "ingress.host: name the host"),
        ({"serviceMonitor": {"enabled": True}}, "serviceMonitor.keySecret: name a Secret"),
        ({"server": {"replicas": 2}}, "set data.accessMode to ReadWriteMany"),
        ({"server": {"replicas": 2}, "database": {"enabled": False}}, "several servers need PostgreSQL"),
    ],
)
def test_wrong_values_are_refused_with_the_reason(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(HelmError, match=f"(?s){message}"):
        render(KEYS | wrong)


# What is said, and what is written


@needs_helm
def test_the_notes_say_how_to_reach_the_service() -> None:
    assert f"--namespace {NAMESPACE} port-forward service/withstand 8000:80" in notes(KEYS)
    assert "https://robust.example.org" in notes(KEYS | CASES["ingress"])
    assert len(notes(KEYS).splitlines()) < 15


def test_the_readme_names_values_that_exist() -> None:
    text = (ROOT / "docker" / "README.md").read_text().partition("## On Kubernetes")[2].partition("\n## ")[0]
    named = {*re.findall(r"--set ([\w.]+)=", text), *re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE)}
    assert {"secret", "store.url", "ray.workers.gpus"} < named
    ours = values()
    for name in named:
        found: Any = ours
        for key in name.split("."):
            assert key in found, name
            found = found[key]


@needs_helm
@pytest.mark.parametrize(("release", "name"), [("robust", "robust-withstand"), ("a" * 53, "a" * 40)])
def test_names_leave_room_for_what_is_appended(release: str, name: str) -> None:
    clusters = [each for each in render(KEYS, release) if each["kind"] == "RayCluster"]
    assert [each["metadata"]["name"] for each in clusters] == [name]
