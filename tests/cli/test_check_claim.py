"""Claims are checked here and at a service: as few images as will do, an answer, a status."""

import json
from pathlib import Path

import pytest

import evaluation.plan
from evaluation import Catalog
from tests.command import Run
from tests.server import Server

TRUE = ["check-claim", "--model", "tiny", "--dataset", "shapes", "--claimed", 0.5, "--tolerance", 0.2]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 4)


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WITHSTAND_DATA_DIR", str(tmp_path / "data"))


def test_a_claim_that_holds(run: Run, here: list[str]) -> None:
    ended = run(*TRUE, *here)
    assert (ended.status, ended.err) == (0, "")
    answer, *differences, trust = " ".join(ended.out.split()).split(" - ")
    assert answer.startswith("tiny on shapes, clean: claimed 50 %, tolerance 20 points: holds; ")
    assert any("of 33 images were looked at, drawn at random" in each for each in differences), "not all were needed"
    assert trust.startswith("trust: ")
    assert run(*TRUE, *here).out == ended.out, "what is finished is found again"


def test_a_claim_that_does_not_hold_ends_with_status_1(run: Run, here: list[str]) -> None:
    attack = ["--threat", "Linf:64/255", "--preset", "pgd-20"]
    ended = run("check-claim", "--model", "tiny", "--dataset", "shapes", "--claimed", 0.9, *attack, *here)
    assert ended.status == 1
    assert "claimed 90 %, tolerance 1 point: does not hold" in " ".join(ended.out.split())
    assert ended.err == "withstand: 1 of 1 claims cannot be said to hold\n"


def test_too_few_images_tell_nothing(run: Run, here: list[str]) -> None:
    ended = run(*TRUE, "--images", 2, "--confidence", 0.99, *here)
    assert ended.status == 1
    assert "cannot be told with so many images; " in " ".join(ended.out.split())


def test_a_file_of_claims_is_checked_alike_here_and_at_a_service(
    run: Run, catalog: Catalog, here: list[str], fresh: Server, tmp_path: Path
) -> None:
    path = tmp_path / "claims.json"
    claims = [
        {"model": "tiny", "dataset": "shapes", "claimed": 0.5, "tolerance": 0.2},
        {"model": "twin", "dataset": "shapes", "claimed": 0.9, "threat": "Linf:64/255", "preset": "pgd-20"},
    ]
    path.write_text(json.dumps(claims))
    local = run("check-claim", "--claims", path, "--json", *here)
    there = run("check-claim", "--claims", path, "--json", "--server", fresh.url)
    assert (local.status, there.status) == (1, 1)
    found = json.loads(local.out)
    assert [each["verdict"]["answer"] for each in found] == ["holds", "does not hold"]
    assert [each["condition"] for each in found] == ["clean", "PGD-20 Linf 64/255"]
    assert [each["verdict"] for each in json.loads(there.out)] == [each["verdict"] for each in found]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--model and --dataset must be given, or a file of claims with --claims"),
        (["--model", "tiny", "--dataset", "shapes"], "claimed"),
        (["--claims", "claims.json", "--model", "tiny"], "--claims describes every claim; leave out --model"),
        (["--claims", "none.json"], "none.json"),
        ([*TRUE[1:], "--threat", "8/255"], "a threat is NORM:EPS, such as Linf:8/255 or L2:0.5, got '8/255'"),
        ([*TRUE[1:], "--preset", "nothing"], "nothing"),
        ([*TRUE[1:], "--preset", "rotation-flip"], "a claim is about one"),
        ([*TRUE[1:], "--threat", "Linf:8/255", "--preset", "rotation-flip"], "an eps needs a preset that attacks"),
    ],
)
def test_what_is_no_claim_is_refused(run: Run, here: list[str], arguments: list[str], problem: str) -> None:
    ended = run("check-claim", *arguments, *here)
    assert (ended.status, ended.out) == (2, "")
    assert problem in ended.err and ended.err.count("\n") == 1
