"""Renders the chart as `helm install` does. Helm, a Go program whose threads others must not inherit, has a process of its own."""

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from tests.docker.dockerfile import ROOT

CHART = ROOT / "docker" / "helm" / "withstand"
RELEASE, NAMESPACE = "withstand", "vision"

Manifest = dict[str, Any]

KEYS = {"secret": "keys"}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "external database": {"databaseUrl": {"secret": "postgres"}},
    "sqlite": {"database": {"enabled": False}},
    "gpu": {"server": {"gpus": 1}, "ray": {"workers": {"gpus": 2, "min": 1, "max": 8, "image": {"tag": "0.1.0-cuda"}}}},
    "cpu workers": {"ray": {"workers": {"gpus": 0, "max": 3}}},
    "no ray": {"ray": {"enabled": False}},
    "ingress": {"ingress": {"enabled": True, "host": "robust.example.org", "className": "nginx", "tlsSecret": "tls"}},
    "service monitor": {"serviceMonitor": {"enabled": True, "keySecret": "scrape", "labels": {"release": "prometheus"}}},
    "object storage": {"store": {"url": "s3://bucket/folder", "credentialsSecret": "s3"}},
    "several servers": {"server": {"replicas": 2}, "data": {"accessMode": "ReadWriteMany", "storageClass": "nfs"}},
    "own claims": {
        "data": {"existingClaim": "data"}, "store": {"existingClaim": "store"}, "modelsClaim": "m", "datasetsClaim": "d",
    },
    "settings": {"settings": {"log_format": "json", "max_body_bytes": 2**30, "keep_days": 0.5, "webhook_hosts": ["a.b"]}},
    "open network": {"networkPolicy": {"enabled": False}, "image": {"pullSecrets": ["registry"]}},
}  # fmt: skip
SECRETS = {
    "WITHSTAND_API_KEYS": '["a-long-random-text"]',
    "WITHSTAND_DATABASE_URL": "postgresql://user:password@host/name",
    "WITHSTAND_WEBHOOK_SECRET": "whsec_" + "A" * 32,
    "POSTGRES_PASSWORD": "hex",
    "RAY_AUTH_TOKEN": "t" * 32,
}
"""Keys of the Secrets that exist before; others may be missing."""


needs_helm = pytest.mark.skipif(find_spec("helm_python") is None, reason="there is no Helm engine for this platform")

every_case = pytest.mark.parametrize("case", CASES)


class HelmError(RuntimeError):
    """What Helm says of values that it refuses."""


def values() -> dict[str, Any]:
    """The chart's own values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def render(changes: dict[str, Any], release: str = RELEASE) -> list[Manifest]:
    """Everything that an installation would create.

    Raises:
        HelmError: Helm refuses the values.
    """
    texts = _helm("render", changes, release)
    return [each for text in texts.values() for each in yaml.safe_load_all(text) if each is not None]


def notes(changes: dict[str, Any]) -> str:
    """What is said after an installation."""
    return _helm("notes", changes, RELEASE)["NOTES.txt"]


def lint(changes: dict[str, Any]) -> list[str]:
    """What Helm has to say of the chart beyond advice."""
    found: list[dict[str, Any]] = _helm("lint", changes, RELEASE)["messages"]
    return [each["error"] for each in found if each["severity"] > 1]


@cache
def installed(case: str) -> dict[str, Manifest]:
    """What an installation creates, by kind and name; the same objects each time."""
    manifests = render(KEYS | CASES[case])
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in manifests}
    assert len(named) == len(manifests)
    return named


def pods(case: str) -> dict[str, Manifest]:
    """The pod templates, by the name of their part."""
    found: list[Manifest] = []
    for each in installed(case).values():
        if each["kind"] == "RayCluster":
            found += [each["spec"]["headGroupSpec"]["template"]]
            found += [group["template"] for group in each["spec"]["workerGroupSpecs"]]
        elif "template" in each["spec"]:
            found.append(each["spec"]["template"])
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found}


def containers(case: str) -> Iterator[Manifest]:
    for each in pods(case).values():
        yield from each["spec"]["containers"]


def environment(case: str, part: str = "server") -> dict[str, str]:
    """The variables of a part, as Kubernetes fills them in."""
    found: dict[str, str] = {}
    for each in pods(case)[part]["spec"]["containers"][0]["env"]:
        if "value" in each:
            text = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], each["value"])
        else:
            reference = each["valueFrom"]["secretKeyRef"]
            if reference["key"] not in SECRETS and reference["optional"]:
                continue
            text = SECRETS[reference["key"]]
        found[each["name"]] = text
    return found


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def _helm(verb: Literal["render", "notes", "lint"], changes: dict[str, Any], release: str) -> dict[str, Any]:
    return _process().submit(_answer, verb, changes, release).result()


def _answer(verb: str, changes: dict[str, Any], release: str) -> dict[str, Any]:
    import helm_python as helm  # noqa: PLC0415  it is not there on every platform

    if verb == "lint":
        return helm.lint(CHART, changes, strict=True)
    try:
        with helm.Chart.load(CHART) as chart:
            chart.validate_schema(changes)
            rendered = chart.render(changes, name=release, namespace=NAMESPACE)
    except helm.HelmError as error:
        raise HelmError(str(error)) from None
    texts = {Path(path).name: text for path, text in rendered.items()}
    return {name: text for name, text in texts.items() if (name == "NOTES.txt") == (verb == "notes")}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector of Kubernetes selects what has these labels."""
    listed = all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))
    return listed and selector.get("matchLabels", {}).items() <= labels.items()
