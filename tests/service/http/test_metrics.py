"""The dashboard and the page on serving show the numbers that the service has, and all of them."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from service.serving.deployments import ServingSettings

DASHBOARD = json.loads((Path(__file__).parents[3] / "docker" / "grafana" / "withstand.json").read_text())


def test_the_dashboard_shows_every_number_there_is_and_no_other() -> None:
    asked = {target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    names = {re.sub("_(bucket|count|sum|total)$", "", each) for each in re.findall(r"withstand_\w+", " ".join(asked))}
    families = text_string_to_metric_families(Metrics().page({"done": 0}).decode())
    assert names == {family.name for family in families}


def test_labels_that_the_dashboard_groups_by_are_there() -> None:
    metrics = Metrics()
    labels = {each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            known = set.union(*(labels[name] for name in labels if name in target["expr"]))
            grouped = re.findall(r"by \((?:le, )?(\w+)\)", target["expr"])
            assert grouped
            assert set(grouped) <= known, panel["title"]


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_the_page_on_serving_lists_every_number_and_setting() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    for family in text_string_to_metric_families(Metrics().page({}).decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"| `{name}` | {family.documentation} |" in page
    for name, field in ServingSettings.model_fields.items():
        default = json.dumps(field.default) if not isinstance(field.default, str) else field.default
        assert f"| `{name}` | {default} | {field.description} |" in page
