"""Pages for people: the numbers of the report, escaped, and nothing from other hosts."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from evaluation import EvaluationSpec, Report, make_plan, merge, run_shard
from evaluation.reports.classes import ClassDifference
from evaluation.reports.formats.methods import methods
from evaluation.statistics import Proportion
from service.http.pages.templates import WEB, macro
from service.jobs.store import MAX_FAILURES
from service.settings import Settings
from tests.server import EVIL, Server, a_plan, serving
from tests.service.http.asked import finished
from tests.service.http.page import Page

SPEC = EvaluationSpec.model_validate(
    {
        "models": ["tiny", "evil"],
        "dataset": "shapes",
        "images": 9,
        "conditions": [
            {"kind": "clean"},
            {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}},
            {
                "kind": "adversarial",
                "threat": {"norm": "Linf", "eps": "8/255"},
                "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
                "targets": "random",
            },
        ],
    }
)


@pytest.fixture(scope="module")
def report(server: Server) -> Iterator[Report]:
    """The report of an evaluation that the server runs too, computed here."""
    catalog, store = server.service.catalog, server.service.store
    plan = make_plan(SPEC, catalog)
    dataset = catalog.open_dataset("shapes")
    results = [
        run_shard(SPEC, shard, classifier=catalog.load_model(shard.model), dataset=dataset) for shard in plan.shards
    ]
    store.submit(plan)
    server.service.dispatcher.wake()
    yield merge(plan, results)
    store.cancel(plan.id)


@pytest.fixture
def done(server: Server, report: Report) -> Report:
    with server.http.stream("GET", f"/v1/evaluations/{report.plan.id}/events") as events:
        events.read()
    assert server.http.get(f"/v1/evaluations/{report.plan.id}").json()["status"] == "done"
    return report


def numbers(report: Report) -> list[str]:
    scores = [condition.score for model in report.models for condition in model.conditions]
    assert all(isinstance(each, Proportion) for each in scores)
    return [f"{100 * each.value:.1f}" for each in scores if each] + [f"n = {each.n}" for each in scores if each]


def page(http: httpx.Client, path: str) -> Page:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def test_the_page_of_an_evaluation_shows_the_numbers_of_its_report(http: httpx.Client, done: Report) -> None:
    shown = page(http, f"/evaluations/{done.plan.id}")
    cells = re.findall(r"([\d.]+)\s+([\d.]+) \S ([\d.]+) n = (\d+)", shown.text)
    wanted = [condition.score for model in done.models for condition in model.conditions]
    assert cells == [
        (f"{100 * each.value:.1f}", f"{100 * each.low:.1f}", f"{100 * each.high:.1f}", "9") for each in wanted if each
    ]
    for text in (done.plan.id, "PGD-2 Linf 8/255 to random", "rotation 90", "attack success rate", *done.facts()):
        assert text in shown.text
    adversarial = done.models[0].conditions[2]
    for rate in (adversarial.attack_success_rate, adversarial.target_rate):
        assert rate is not None
        assert f"{100 * rate.value:.1f} %" in shown.text


def test_the_answer_to_a_claim_stands_above_the_numbers(http: httpx.Client) -> None:
    claim = {"claimed": 0.2, "tolerance": 0.1, "confidence": 0.5}
    state = finished(http, images=33, claim=claim)
    before, _, after = http.get(f"/evaluations/{state['id']}").text.partition('<table class="report')
    assert "Claim of 20.0 %" in before and '<span class="grade reliable">holds</span>' in before
    assert "claimed 20 %, tolerance 10 points: holds" in after


def test_the_first_page_lists_evaluations_and_counts_models_and_data_sets(server: Server, done: Report) -> None:
    shown, catalog = page(server.http, "/"), server.service.catalog
    assert {f"/evaluations/{done.plan.id}", "/models", "/datasets"} <= set(shown.addresses)
    assert f"{len(catalog.checkpoints())} models" in shown.text
    assert f"{len(catalog.datasets())} data set" in shown.text


def test_the_html_report_needs_nothing_but_itself(http: httpx.Client, done: Report) -> None:
    report = page(http, f"/v1/evaluations/{done.plan.id}/report?format=html")
    for number in numbers(done):
        assert number in report.text
    assert '"norm": "Linf"' in report.text, "it holds the specification"
    assert {tag for tag, _ in report.tags} & {"script", "iframe", "object"} == set()
    assert [each for each in report.addresses if each != "/" and not each.startswith("data:")] == []
    assert "url(" not in report.text
    assert "@import" not in report.text


def test_what_cards_say_is_escaped(http: httpx.Client, done: Report) -> None:
    report = f"/v1/evaluations/{done.plan.id}/report?format=html"
    for path in ("/", "/models", "/models/evil", "/datasets/shapes", f"/evaluations/{done.plan.id}", report):
        assert EVIL not in http.get(path).text
        scripts = [attributes for tag, attributes in page(http, path).tags if tag == "script"]
        assert all(str(attributes.get("src")).startswith("/static/") for attributes in scripts)
    assert page(http, "/models/evil").text.count(EVIL) == 3, "training, data and claim are shown as they were written"


def test_the_error_of_a_failed_evaluation_is_shown(server: Server) -> None:
    """The file that the plan names has another hash, so that every try fails."""
    store = server.service.store
    plan = a_plan(77, images=1)
    store.submit(plan)
    server.service.dispatcher.wake()
    with server.http.stream("GET", f"/v1/evaluations/{plan.id}/events") as events:
        events.read()
    found = store.evaluation(plan.id)
    assert found is not None
    assert found.progress.runs == MAX_FAILURES
    shown = page(server.http, f"/evaluations/{plan.id}")
    assert "CheckpointError: tiny has changed since the evaluation was submitted" in shown.text
    assert "failed" in shown.text


def test_a_partial_report_says_so(server: Server) -> None:
    plan = a_plan(78)
    server.service.store.submit(plan)
    server.service.store.cancel(plan.id)
    shown = page(server.http, f"/evaluations/{plan.id}")
    assert "PARTIAL: not all images are done" in shown.text
    assert "cancelled" in shown.text
    assert "0 / 250 images" in shown.text


def test_no_page_asks_another_host_for_anything(server: Server, done: Report) -> None:
    """All that can be reached from these."""
    paths = ["/", f"/evaluations/{done.plan.id}", f"/v1/evaluations/{done.plan.id}/report?format=html"]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        seen.add(path)
        answer = server.http.get(path)
        assert answer.status_code == 200, path
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        addresses = {each for each in Page(answer.text).addresses if not each.startswith("data:")}
        assert all(re.match(r"/(?!/)", each) for each in addresses), addresses
        paths += addresses - seen - set(paths)
        assert "url(" not in answer.text
    assert "/v1/models/tiny" in seen


@pytest.mark.parametrize("file", sorted(path.name for path in (WEB / "static").iterdir()))
def test_static_files_are_served_and_name_no_other_host(http: httpx.Client, file: str) -> None:
    answer = http.get(f"/static/{file}")
    assert answer.status_code == 200
    assert answer.text == (WEB / "static" / file).read_text()
    assert re.findall(r"//[\w-]+\.\w|url\(|@import", answer.text) == []


def test_the_hint_on_an_empty_page_names_what_is_there(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"data_dir": tmp_path})) as fresh:
        hint = page(fresh.http, "/").text
        assert f"curl -X POST {fresh.url}/v1/evaluations/rotation-flip" in hint
        body = json.loads(re.findall(r"-d '(.*)'", hint)[0])
        assert body["models"][0] in fresh.service.catalog.checkpoints()
        assert body["dataset"] in fresh.service.catalog.datasets()


@pytest.mark.parametrize("path", ["/evaluations/0123456789abcdef", "/evaluations/short"])
def test_a_page_that_is_not_there_is_a_problem(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_evaluation_is_shown_in_parts(http: httpx.Client, done: Report) -> None:
    here = f"/evaluations/{done.plan.id}"
    first = page(http, here)
    assert first.text == page(http, f"{here}/table").text
    assert {f"{here}/{tab}" for tab in ("curves", "classes", "calibration", "images", "trust", "methods")} <= set(
        first.addresses
    )
    assert f"/new?like={done.plan.id}" in first.addresses
    for model in done.models:
        assert model.verdict in first.text, "trust stands beside the numbers"
    for check in (check for model in done.models for check in model.checks):
        assert check.message in page(http, f"{here}/trust").text
    assert methods(done) in page(http, f"{here}/methods").text
    answer = http.get(f"{here}/nothing")
    assert answer.status_code == 404
    assert (
        "has no part 'nothing'; it has: table, curves, classes, calibration, images, trust, methods"
        in answer.json()["detail"]
    )


def test_classes_are_shown_as_the_rows_count_them(http: httpx.Client, done: Report) -> None:
    rows = [*csv.DictReader(http.get(f"/v1/evaluations/{done.plan.id}/report?format=csv").text.splitlines())]
    classes = http.get("/v1/models/evil").json()["classes"]
    for index, condition in enumerate(done.plan.spec.conditions):
        mine = [row for row in rows if (row["model"], row["condition"]) == ("evil", condition.title)]
        asked = {"model": "evil", "condition": index}
        found = http.get(f"/v1/evaluations/{done.plan.id}/classes", params=asked).raise_for_status().json()
        assert found["condition"] == condition.title
        taken_for = {name: Counter[str]() for name in classes}
        for row in mine:
            taken_for[classes[int(row["label"])]][classes[int(row["prediction"])]] += 1
        assert {each["name"]: each["taken_for"] for each in found["classes"]} == taken_for
        scores = [each["score"] for each in found["classes"]]
        overall = next(each for each in done.models if each.model == "evil").conditions[index].score
        assert overall is not None
        assert (sum(each["count"] for each in scores), sum(each["n"] for each in scores)) == (overall.count, overall.n)
        assert scores == sorted(scores, key=lambda each: each["value"])
        shown = http.get(f"/evaluations/{done.plan.id}/classes", params=asked)
        cells = re.findall(r"--share: (\d+)%\">(\d+)<", shown.text)
        assert sum(int(count) for _, count in cells) == len(mine) == 9


def test_confidences_are_measured_as_in_the_rows(http: httpx.Client, done: Report) -> None:
    rows = [*csv.DictReader(http.get(f"/v1/evaluations/{done.plan.id}/report?format=csv").text.splitlines())]
    mine = [row for row in rows if (row["model"], row["condition"]) == ("evil", done.plan.spec.conditions[2].title)]
    asked = {"model": "evil", "condition": 2}
    found = http.get(f"/v1/evaluations/{done.plan.id}/calibration", params=asked).raise_for_status().json()
    gaps = [(float(row["confidence"]) - (row["prediction"] == row["label"])) ** 2 for row in mine]
    assert found["calibration"]["brier"]["value"] == pytest.approx(sum(gaps) / 9, abs=1e-6)
    assert found["calibration"]["n"] == sum(each["n"] for each in found["calibration"]["bins"]) == 9
    shown = page(http, f"/evaluations/{done.plan.id}/calibration?{httpx.QueryParams(asked)}")
    for name in ("calibration_error", "brier", "aurc", "auroc"):
        assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found["calibration"][name]) in shown.text
    clean = http.get(f"/v1/evaluations/{done.plan.id}/calibration", params={"model": "evil"}).json()
    assert clean["calibration"]["auroc"] is None, "nothing is changed"


@pytest.mark.parametrize("of", ["classes", "calibration"])
def test_parts_that_are_not_there_are_refused(http: httpx.Client, done: Report, of: str) -> None:
    here = f"/v1/evaluations/{done.plan.id}/{of}"
    for asked, reason in (
        ({"model": "absent"}, "has no model 'absent', it has tiny, evil"),
        ({"model": "evil", "condition": 3}, "has 3 conditions; they count from 0"),
    ):
        answer = http.get(here, params=asked)
        assert answer.status_code == 422
        assert reason in answer.json()["detail"]


def test_every_score_is_drawn_with_its_interval(http: httpx.Client, done: Report) -> None:
    html = http.get(f"/evaluations/{done.plan.id}/curves").text
    drawing = html.partition('role="img"')[2].partition("</svg>")[0]
    ends = [
        (float(low), float(high))
        for low, high in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2', drawing)
    ]
    wanted = [each for place in range(3) for model in done.models if (each := model.conditions[place].score)]
    assert len(ends) == len(wanted) == 6
    zero, hundred = 250, 640 - 16  # where the axis begins and ends
    for (low, high), score in zip(ends, wanted, strict=True):
        assert low == pytest.approx(zero + score.low * (hundred - zero), abs=0.06)
        assert high == pytest.approx(zero + score.high * (hundred - zero), abs=0.06)


def test_examples_are_chosen_by_model_class_and_confidence(http: httpx.Client, done: Report) -> None:
    here = f"/evaluations/{done.plan.id}/images"
    every = {model.model: [each for c in model.conditions for each in c.examples] for model in done.models}
    model = next(name for name, found in every.items() if found)
    example = every[model][0]

    def shown(**query: object) -> int:
        return http.get(here, params={"model": model, **query}).raise_for_status().text.count("<figcaption>")

    assert shown() == len(every[model]) > 0
    assert shown(label=example.label) == sum(each.label == example.label for each in every[model])
    assert shown(label="", prediction=example.prediction) == sum(
        each.prediction == example.prediction for each in every[model]
    )
    assert shown(confidence=1.01) == shown(model="nothing") == 0
    assert shown(confidence="") == shown()
    assert http.get(here, params={"confidence": "much"}).status_code == 422


def test_evaluations_are_listed_and_found_by_their_labels(http: httpx.Client, done: Report) -> None:
    label = {"name": f"{EVIL} first", "tags": ["a&b"], "note": f"line\n{EVIL}"}
    http.put(f"/v1/evaluations/{done.plan.id}/label", json=label).raise_for_status()
    for path in ("/evaluations", "/evaluations?search=FIRST+tiny", f"/evaluations/{done.plan.id}"):
        shown = page(http, path)
        assert f"{EVIL} first" in shown.text
        assert "/evaluations?search=a%26b" in shown.addresses
        assert EVIL not in http.get(path).text
    assert "Nothing is found." in page(http, "/evaluations?search=first+absent").text
    assert f'data-path="/v1/evaluations/{done.plan.id}?results=true"' in http.get("/evaluations").text
    http.put(f"/v1/evaluations/{done.plan.id}/label", json={}).raise_for_status()
    assert f"{EVIL} first" not in page(http, f"/evaluations/{done.plan.id}").text


@pytest.mark.parametrize(
    "label",
    [{"name": "a\nb"}, {"name": 201 * "a"}, {"tags": ["two words"]}, {"tags": [""]}, {"note": "\0"}, {"title": "x"}],
)
def test_labels_that_cannot_be_shown_are_refused(http: httpx.Client, done: Report, label: dict[str, object]) -> None:
    assert http.put(f"/v1/evaluations/{done.plan.id}/label", json=label).status_code == 422


def test_models_are_compared_with_the_numbers_of_the_comparison(http: httpx.Client, done: Report) -> None:
    shown = page(http, f"/compare?evaluation={done.plan.id}")
    query = {"evaluation": done.plan.id, "model": "evil", "other_model": "tiny"}
    found = http.get("/v1/comparisons", params=query).raise_for_status().json()
    for each in found["conditions"]:
        assert f"{100 * each['difference']:+.1f}" in shown.text
        assert f"[{100 * each['low']:+.1f}, {100 * each['high']:+.1f}], n = 9" in shown.text
    sides = {"side": [f"{done.plan.id} evil", f"{done.plan.id} tiny", f"{done.plan.id} absent"]}
    assert "tiny against evil" in page(http, f"/compare?{httpx.QueryParams(sides)}").text
    assert http.get("/compare?side=short+tiny").status_code == 422
    assert http.get("/compare?side=0123456789abcdef+tiny").status_code == 404


def test_images_and_classes_that_differ_are_shown(http: httpx.Client) -> None:
    images = Page(str(macro("class_parts.html", "images", range(30), "/datasets/shapes/images")))
    pictures = [each for each in images.addresses if each.endswith(".png")]
    assert pictures == [f"/datasets/shapes/images/{index}.png" for index in range(24)]
    assert http.get(pictures[-1]).headers["content-type"] == "image/png"
    assert http.get("/datasets/shapes/images/33.png").status_code == 404
    assert "28, 29" in images.text
    assert not Page(str(macro("class_parts.html", "images", range(30), None))).addresses
    differing = [ClassDifference(name=f"<c{index}>", n=8, difference=-0.5, p_holm=0.01) for index in range(12)]
    shown = Page(str(macro("class_parts.html", "differing", differing))).text
    assert all(part in shown for part in ("<c9>", "-50.0", "n = 8, p = 0.010", "and 2 more"))


def test_models_that_cannot_be_compared_are_refused_with_the_reason(server: Server, done: Report) -> None:
    other = (
        server.http.post("/v1/evaluations", json=SPEC.model_dump(mode="json") | {"images": 8}).raise_for_status().json()
    )
    sides = {"side": [f"{done.plan.id} tiny", f"{other['id']} tiny"]}
    shown = page(server.http, f"/compare?{httpx.QueryParams(sides)}")
    assert "cannot be compared image by image: " in shown.text
    assert "were not evaluated alike: number of images 8 and 9" in shown.text
