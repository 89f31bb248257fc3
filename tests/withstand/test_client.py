"""The client against the real server."""

import asyncio
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from torch import nn

from evaluation import Report
from service.http.formats import FORMATS
from service.jobs.evaluations import Status
from tests.conftest import TINY_OPTIONS, picture_bytes, shape_picture
from tests.server import Server
from withstand import AsyncClient, Client, ClientError, answers
from withstand.methods import ClientMethods

NOWHERE = "c0ffee" * 2 + "cafe"
"""An id that no test submits."""

SPEC = {"models": ["tiny"], "dataset": "shapes", "images": 3}
DISC = picture_bytes(shape_picture(0, np.random.default_rng(5)))
HEAVY = "print(*{'torch', 'numpy', 'pydantic', 'pandas', 'cli', 'common', 'evaluation', 'service'} & {*sys.modules})"


@pytest.fixture
def client(fresh: Server) -> Iterator[Client]:
    with Client(fresh.url) as opened:
        yield opened


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address on which nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_it_imports_nothing_of_the_service() -> None:
    code = f"import sys\nfrom withstand import AsyncClient, Client\n{HEAVY}"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_an_evaluation_is_submitted_watched_and_read(client: Client) -> None:
    assert client.ready()
    submitted = client.submit(SPEC)
    *_, last = client.watch(submitted["id"])
    assert (last["id"], last["status"]) == (submitted["id"], "done")
    assert Report.model_validate(client.evaluation(submitted["id"])["report"]).complete


def test_a_job_is_waited_for_and_read(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    job = client.evaluate(SPEC | {"seed": 1}, preset="rotation-flip", priority="high")
    assert job.wait(progress=True)["priority"] == "high"
    shown = capsys.readouterr()
    assert (shown.out, shown.err.splitlines()[-1]) == ("", "18 / 18 images")
    assert job.status == "done"
    assert job.report()["complete"]
    assert b"| model | clean |" in job.report_as("markdown")
    rows = job.rows()
    assert len(rows) == 18
    first = rows[0]
    assert (first["model"], first["condition"], first["within_budget"], first["distance"]) == (
        "tiny",
        "clean",
        True,
        None,
    )
    assert first["file"] == f"disc/{3 * first['index']:02d}.png"
    assert 0 < first["confidence"] <= 1
    frame = job.to_frame()
    assert isinstance(frame, pd.DataFrame)
    right = frame[frame.condition == "clean"].eval("prediction == label").mean()
    assert right == client.job(job.id).report()["models"][0]["conditions"][0]["accuracy"]["value"]


def test_without_pandas_the_error_says_what_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"to_frame\(\) needs pandas: uv pip install '.\[pandas\]'"):
        client.evaluate(SPEC).to_frame()


def test_a_job_that_is_cancelled_ends_with_an_error(client: Client) -> None:
    client.control_queue("pause")
    try:
        job = client.evaluate(SPEC | {"seed": 2})
        assert job.control("pause")["status"] == "paused"
        assert job.prioritise("low")["priority"] == "low"
        assert job.limit(max_devices=2)["limits"]["max_devices"] == 2
        assert job.label({"name": "mine", "tags": ["nightly"], "note": ""})["label"]["name"] == "mine"
        assert [each["id"] for each in client.evaluations("nightly mine")] == [job.id]
        assert [each["evaluation"] for each in client.queue()["waiting"]] == [job.id]
        assert job.cancel()["status"] == "cancelled"
        with pytest.raises(ClientError, match=f"^evaluation {job.id} ended as cancelled$"):
            job.wait()
        assert client.remove_evaluation(job.id)["id"] == job.id
    finally:
        client.control_queue("resume")


@pytest.mark.parametrize("form", [form.name for form in FORMATS])
def test_a_report_is_read_in_every_format(client: Client, form: str) -> None:
    job = client.evaluate(SPEC)
    job.wait()
    assert len(job.report_as(form)) > 50


def test_pictures_are_classified_and_explained(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "disc.png"
    path.write_bytes(DISC)
    found = client.predict("tiny", path, DISC, b"no picture", top_k=2)
    assert [each["file"] for each in found["predictions"]] == ["disc.png", "picture", "picture"]
    assert [[score["label"] for score in each["top"]][:1] for each in found["predictions"]] == [["disc"], ["disc"], []]
    assert found["predictions"][2]["error"] is not None
    with pytest.raises(ClientError, match="422: resnet_mini has no attention"):
        client.explain("tiny", path)
    with pytest.raises(ClientError, match="422"):
        client.explain_png("tiny", str(path), query=(0.5, 0.5))


def test_models_and_data_sets_come_and_go(
    client: Client, shapes_zip: Path, trained_network: nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained_network.state_dict(), file)
    with pytest.raises(ClientError) as refused:
        client.add_model(file)
    assert {each["field"] for each in refused.value.problem["questions"]} >= {"classes"}
    added = client.add_model(
        file, name="brought", card={"options": TINY_OPTIONS, "classes": ["a", "b", "c"]}, accept_likely=True
    )
    assert client.model("brought")["classes"] == added["card"]["classes"] == ["a", "b", "c"]
    assert "brought" in {each["name"] for each in client.models()}
    client.remove_model("brought")
    assert "brought" not in {each["name"] for each in client.models()}
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(few, "w") as archive:
        archive.writestr("disc/0.png", DISC)
    assert client.add_dataset(few, name="few_shapes")["images"] == 1
    assert "few_shapes" in {each["name"] for each in client.datasets()}


def test_two_models_are_compared(client: Client) -> None:
    job = client.evaluate(SPEC | {"models": ["tiny", "twin"]})
    job.wait()
    found = client.comparison(job.id, model="tiny", other_model="twin")
    assert [(each["title"], each["n"], each["difference"]) for each in found["conditions"]] == [("clean", 3, 0.0)]
    classes = client.class_scores(job.id, model="tiny")["classes"]
    assert job.class_scores(model="tiny")["classes"] == classes
    assert sum(each["score"]["n"] for each in classes) == 3
    calibration = client.calibration(job.id, model="tiny")["calibration"]
    assert calibration is not None and calibration["n"] == 3
    assert job.calibration(model="tiny")["calibration"] == calibration


def test_the_rest_is_listed(client: Client) -> None:
    assert client.estimate(SPEC)["images"] == 3
    assert "pgd-20" in {each["name"] for each in client.presets()}
    assert "pgd" in {each["name"] for each in client.attacks()}
    assert "resnet50" in {each["name"] for each in client.architectures()}
    assert [each["name"] for each in client.devices()["devices"]] == ["cpu"]
    assert client.failures()["failures"] == []


def test_a_problem_becomes_an_error_with_its_reason(client: Client) -> None:
    with pytest.raises(ClientError, match=r"422: unknown model 'tinny'. Did you mean 'tiny'\?") as refused:
        client.submit(SPEC | {"models": ["tinny"]})
    assert (refused.value.status, refused.value.problem["errors"][0]["field"]) == (422, "models")
    for ask in (client.evaluation, client.job, lambda wanted: list(client.watch(wanted))):
        with pytest.raises(ClientError, match=f"404: there is no evaluation '{NOWHERE}'"):
            ask(NOWHERE)


def test_an_address_where_the_service_is_not_is_an_error(fresh: Server) -> None:
    with Client(f"{fresh.url}/static") as lost, pytest.raises(ClientError, match=r"40[45]: "):
        lost.submit(SPEC)
    with pytest.raises(ValueError, match="begins with http:// or https://, got 'localhost:8000'"):
        Client("localhost:8000")


def test_nobody_there_is_an_error(deaf: str) -> None:
    with Client(deaf, patience_s=0.3) as client:
        assert not client.ready()
        with pytest.raises(ClientError, match=f"no answer from {deaf}"):
            client.submit(SPEC)
        with pytest.raises(ClientError, match=f"no answer from {deaf}"):
            list(client.watch(NOWHERE))


def test_the_client_for_asyncio_does_the_same(fresh: Server, tmp_path: Path) -> None:
    path = tmp_path / "disc.png"
    path.write_bytes(DISC)

    async def use() -> None:
        async with AsyncClient(fresh.url) as client:
            assert await client.ready()
            job = await client.evaluate(SPEC | {"seed": 3})
            predicted, done = await asyncio.gather(client.predict("tiny", path), job.wait())
            assert predicted["predictions"][0]["top"][0]["label"] == "disc"
            assert done["status"] == await job.status() == "done"
            assert len(await job.rows()) == len(await job.to_frame()) == 3
            assert job.id in {each["id"] for each in await client.evaluations()}
            assert (await client.job(job.id)).links == job.links
            with pytest.raises(ClientError, match="404"):
                await client.job(NOWHERE)

    asyncio.run(use())


def test_both_clients_have_the_same_methods() -> None:
    def own(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert own(Client) == own(AsyncClient)
    assert (ClientMethods.predict.__doc__ or "").startswith("Classify pictures.")


def test_the_types_of_answers_have_the_members_that_the_service_describes(fresh: Server) -> None:
    schemas = fresh.http.get("/openapi.json").json()["components"]["schemas"]
    types: dict[str, Any] = {name: each for name, each in vars(answers).items() if hasattr(each, "__total__")}
    assert len(types) > 15
    described = {name: set(schemas[name]["properties"]) for name in types}
    assert {name: set(each.__annotations__) for name, each in types.items()} == described
    assert {each.value for each in Status if each.final} == answers.ENDED
