"""What the README and its pages say is what happens: code runs, tables equal the code, the demo prints its table."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

import models
import zoo.train
from evaluation import Catalog, Report, preset_names
from service.app import create_app
from service.settings import Settings
from tests.command import Run
from tests.end_to_end.processes import free_port, server

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/http.md", "docs/data.md", "docs/commands.md", "docs/python.md")
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def settings_table() -> str:
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "empty" if default in ((), frozenset(), None, "") else str(default)
        lines.append(f"| `WITHSTAND_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)


def zoo_table() -> str:
    lines = []
    for name, checkpoint in models.find_checkpoints().items():
        card = checkpoint.card()
        low, high = re.findall(r"0\.\d+", card.clean_accuracy_on)
        lines.append(
            f"| `{name}` | {card.training.partition(' on ')[2].partition(',')[0]} | {card.clean_accuracy} | {low} to {high} |"
        )
    return "\n".join(lines)


def test_the_settings_table_equals_the_settings() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text()


def test_the_zoo_table_equals_the_cards() -> None:
    assert zoo_table() in (ROOT / "zoo" / "README.md").read_text()


def test_every_recipe_has_its_checkpoint_and_the_card_it_describes() -> None:
    checkpoints = models.find_checkpoints()
    assert set(zoo.train.RECIPES) == set(checkpoints)
    measured = {"sha256", "clean_accuracy", "clean_accuracy_on"}
    for name, checkpoint in checkpoints.items():
        assert checkpoint.card().model_dump(exclude=measured) == zoo.train.card(name).model_dump(exclude=measured)


def test_the_zoo_stays_small() -> None:
    tracked = subprocess.run(["git", "ls-files", "zoo"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in tracked.split("\n") if name] or list((ROOT / "zoo").rglob("*.*"))
    assert sum(file.stat().st_size for file in files) < 20e6


def test_python_blocks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks("python")
    assert len(code) == 3
    for block in code:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("| resnet_mini.fashion_mnist | 9") == 2


def test_the_least_card_is_enough() -> None:
    (card,) = blocks("json")
    assert models.ModelCard.model_validate_json(card).architecture == "resnet50"


@pytest.fixture
def beside_mine(tmp_path: Path) -> Path:
    """A folder with what a reader brings, `mine.pth` and `pictures`, and what the repository has."""
    for name in ("docs", "zoo"):
        (tmp_path / name).symlink_to(ROOT / name)
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "mine.pth")
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for shade in range(2):
            Image.new("RGB", (48, 48), (50 * shade,) * 3).save(tmp_path / "pictures" / name / f"{shade}.png")
    return tmp_path


def test_commands_run(beside_mine: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has imported torch; others start processes of their own, such as test_restart.py."""
    monkeypatch.chdir(beside_mine)
    commands = re.findall(
        r"^    \.venv/bin/withstand ((?:models|datasets|presets|zoo|predict|explain|evaluate).*)$",
        re.sub(r"\\\n +", "", TEXT),
        flags=re.MULTILINE,
    )
    assert len(commands) == 13
    for command in commands:
        ended = run(*shlex.split(command))
        assert ended.status == 0, ended.err
        assert ended.out


def test_the_gate_for_ci_stops_a_model_that_falls(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "howto-ci-gate.md").read_text()
    plain, strict = re.findall(
        r"^ +\.venv/bin/withstand (evaluate .*)$", re.sub(r"\\\n +", "", page), flags=re.MULTILINE
    )
    falls = plain.replace("fashion_mnist_pgd", "fashion_mnist").replace("--images 20", "--images 4")
    ended = run(*shlex.split(falls))
    assert ended.status == 1
    assert "below --min: resnet_mini.fashion_mnist, PGD-20 Linf 8/255: 0.0000 (n = 4)" in ended.err
    assert Path("report.html").exists()
    assert 'failures="1"' in Path("junit.xml").read_text()
    few = strict.replace("--images 20", "--images 3")
    assert run(*shlex.split(few.replace(" --strict", ""))).status == 0
    ended = run(*shlex.split(few))
    assert ended.status == 1
    assert "PGD-20 Linf 8/255: 1.0000 (n = 3, interval 0.4385 to 1.0000), at least 0.5 is asked for" in ended.err


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def address(data_dir: Path) -> Iterator[str]:
    with server(Catalog((), ()), data_dir, data_dir / "server.log") as (_, client):
        yield client.url


def test_curl_lines_reach_every_route(address: str, tmp_path: Path) -> None:
    shell = "\n".join(blocks("sh")).replace("curl ", "curl --silent --show-error --fail-with-body --max-time 120 ")
    script = f"set -euo pipefail\n{shell}".replace("http://127.0.0.1:8000", address)
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for expected in (
        '"alive"',
        '"Dress"',
        '"Bag"',
        '"status":"pending"',
        "event: progress",
        "| model | clean |",
        "<!doctype html>",
        "withstand_predictions_total",
        "binary_tensor_data",
        ":3:Dress",
    ):
        assert expected in done.stdout, expected

    called = re.sub(r"/evaluations/\$ID", "/evaluations/{evaluation_id}", shell)
    called = re.sub(r"/models/\w+\.\w+", "/models/{name}", called)
    called = re.sub(r"/datasets/\w+", "/datasets/{name}", called)
    called += re.sub(r"/v2/models/{name}", "/v2/models/{name}/versions/{version}", called)  # as docs/http.md says
    alike = {f"/v1/evaluations/{name}" for name in preset_names()} - {"/v1/evaluations/rotation-flip"}
    paths = create_app(Settings(data_dir=tmp_path)).openapi()["paths"].keys() - alike
    assert [path for path in paths if not re.search(re.escape(path) + r"""(?=["'?\s]|$)""", called)] == []


def test_the_snippets_for_other_clients_run(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code = blocks("py")
    assert len(code) == 3
    for block in code:
        exec(compile(block.replace("127.0.0.1:8000", address.removeprefix("http://")), "docs/http.md", "exec"), {})
    hugging_face, *triton, label, rows = capsys.readouterr().out.splitlines()
    assert hugging_face == label == "Dress"
    assert re.findall(r":(\d:\w+)", "\n".join(triton)) == ["3:Dress", "1:Bag"]
    assert rows == "120"


def alike(text: str) -> str:
    """A text less its numbers, ids and ways to wrap lines, which may differ."""
    return re.sub(r"[\s─]+", " ", re.sub(r"\b[0-9a-f]{16}\b|[-+]?\d[\d.]*", "#", text))


@pytest.mark.parametrize("images", [4, pytest.param(None, marks=pytest.mark.thorough)])
def test_the_tutorial_prints_what_it_says(
    images: int | None, address: str, data_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docs", "zoo"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WITHSTAND_SERVER", address)
    monkeypatch.setenv("WITHSTAND_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "80")
    text = (ROOT / "docs" / "tutorial.md").read_text()
    few = re.sub(r"--images \d+", f"--images {images}", text) if images else text
    steps = re.findall(r"^```sh\n(\.venv.*?)^```\n(?:\n```text\n(.*?)^```)?", few, flags=re.MULTILINE | re.DOTALL)
    assert len(steps) == 12
    evaluation = "unknown"
    for lines, expected in steps:
        printed = ""
        for line in re.sub(r"\\\n +", "", lines).splitlines():
            command, gate, _ = line.partition("; echo $?")
            ended = run(*shlex.split(re.sub(r"\b[0-9a-f]{16}\b", evaluation, command))[1:])
            assert ended.status == bool(gate), ended.err
            printed += ended.out + ended.err + (f"{ended.status}\n" if gate else "")
            evaluation = "".join(re.findall(r"^- evaluation (\w+)", ended.out, flags=re.MULTILINE)) or evaluation
        assert images or alike(printed) == alike(expected)
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert run("models", "rm", "mine").status == 0


def scores_of_the_zoo(out: str) -> dict[str, list[str]]:
    """What the demo's tables have beside the name of each model."""
    found: dict[str, list[str]] = {name.replace(".fashion_mnist", ""): [] for name in models.find_checkpoints()}
    for line in out.splitlines():
        name, *scores = line.split() or [""]
        found.get(name, []).extend(scores)
    return found


def without_scores(text: str) -> str:
    """A table less its numbers, which may differ by an image, and the blanks that align them."""
    return re.sub(r" +", " ", re.sub(r"\d+\.\d\b", "#", text))


@pytest.mark.parametrize("images", [20, pytest.param(100, marks=pytest.mark.thorough)])
def test_the_demo_prints_a_score_for_each_model_and_condition(tmp_path: Path, images: int) -> None:
    data, port = tmp_path / "data", str(free_port())
    environment = os.environ | {"WITHSTAND_DATA_DIR": str(data), "WITHSTAND_PORT": port}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "cli.main", "demo", "--detach", "--images", str(images)]
    first = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    table = scores_of_the_zoo(first.stdout)
    assert {name: len(scores) for name, scores in table.items()} == dict.fromkeys(table, 8)
    assert all(0 <= float(score) <= 100 for scores in table.values() for score in scores)
    (sample,) = blocks("text")
    assert without_scores(sample) in without_scores(first.stdout.replace(f"n = {images} ", "n = 100 "))
    report = first.stdout[first.stdout.index(f"Accuracy in percent, n = {images} images") :]
    assert max(map(len, report.partition("The service has stopped")[0].splitlines())) <= 80
    for expected in (
        "Evaluation ",
        f"withstand serve --data-dir {data}",
        "95 % Wilson interval",
    ):
        assert expected in first.stdout
    assert "http://" not in first.stdout, "nothing listens any more"
    assert (data / "withstand.db").exists()

    command.append("--json")
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "Evaluation " in again.stderr
    for model in Report.model_validate_json(again.stdout).models:
        scores = [f"{100 * each.score.value:.1f}" for each in model.conditions if each.score]
        assert scores == table[model.model.replace(".fashion_mnist", "")]
