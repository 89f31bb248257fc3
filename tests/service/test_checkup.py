"""What is wrong with a machine is found and said; what is right is not complained of, and nothing is changed."""

import shutil
import socket
from pathlib import Path

import pytest
import torch

from service.checkup import examine
from service.jobs.store import Store
from service.settings import Settings
from tests.command import Run
from tests.postgresql import Postgresql
from tests.server import a_plan, serving


@pytest.fixture
def healthy(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with which nothing is wrong."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return settings.model_copy(update={"data_dir": tmp_path / "data", "port": port})


def problems(settings: Settings) -> dict[str, str]:
    """Of each topic with a problem, what was found."""
    return {each.topic: each.found for each in examine(settings) if each.is_problem}


def said(settings: Settings, topic: str) -> str:
    return "; ".join(each.found for each in examine(settings) if each.topic == topic)


def test_a_healthy_machine_has_no_problems_and_is_left_as_it_is(healthy: Settings) -> None:
    assert problems(healthy) == {}
    assert not healthy.data_dir.exists()
    assert torch.__version__ in said(healthy, "versions")
    assert said(healthy, "port") == f"127.0.0.1, port {healthy.port} is free"
    Store.at(healthy.data_dir / "withstand.db").submit(a_plan())
    before = (healthy.data_dir / "withstand.db").read_bytes()
    assert "1 evaluation," in said(healthy, "database")
    assert (healthy.data_dir / "withstand.db").read_bytes() == before


def test_a_variable_that_no_setting_has_is_named_and_no_value_is(
    healthy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WITHSTAND_API_KEYS", '["secret"]')
    monkeypatch.setenv("WITHSTAND_API_KEY", "secret")
    monkeypatch.setenv("WITHSTAND_PROT", "secret")
    assert list(problems(healthy)) == ["settings"]
    assert "WITHSTAND_PROT is no setting" in problems(healthy)["settings"]
    assert "WITHSTAND_API_KEY, WITHSTAND_API_KEYS" in said(healthy, "settings")
    assert "secret" not in str([*examine(healthy)])


def test_what_listens_at_the_port_is_told_from_a_service(healthy: Settings) -> None:
    with socket.create_server(("127.0.0.1", healthy.port)):
        assert "cannot listen on 127.0.0.1" in problems(healthy)["port"]
    with serving(healthy) as running:
        there = healthy.model_copy(update={"port": int(running.url.rpartition(":")[2])})
        assert "port" not in problems(there)
        assert "a service of this kind answers there" in said(there, "port")


def test_a_damaged_database_and_a_folder_that_is_a_file_are_problems(healthy: Settings) -> None:
    healthy.data_dir.mkdir()
    (healthy.data_dir / "withstand.db").write_bytes(b"nothing of this kind" * 100)
    assert "file is not a database" in problems(healthy)["database"]
    shutil.rmtree(healthy.data_dir)
    healthy.data_dir.write_text("")
    assert "cannot be written to" in problems(healthy)["data"]


def test_a_server_of_a_database_is_asked(healthy: Settings, postgresql: Postgresql) -> None:
    answering = healthy.model_copy(update={"database_url": postgresql.url()})
    assert (problems(answering), "answers" in said(answering, "database")) == ({}, True)
    silent = healthy.model_copy(update={"database_url": "postgresql://withstand:secret@127.0.0.1:9/withstand"})
    assert "refused" in problems(silent)["database"]
    assert "secret" not in said(silent, "database")


def test_a_checkpoint_and_a_data_set_that_cannot_be_used_are_named(healthy: Settings, tmp_path: Path) -> None:
    models, datasets = tmp_path / "models", tmp_path / "datasets"
    models.mkdir()
    datasets.mkdir()
    (models / "broken.safetensors").write_bytes(b"")
    (models / "broken.json").write_text("{}")
    (datasets / "broken.zip").write_bytes(b"")
    found = problems(healthy.model_copy(update={"model_dirs": (models,), "dataset_dirs": (datasets,)}))
    assert "broken cannot be used" in found["models"]
    assert "broken cannot be used" in found["data sets"]


def test_the_command_ends_with_a_status_that_says_whether_something_is_wrong(
    here: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, healthy: Settings
) -> None:
    monkeypatch.setenv("WITHSTAND_PORT", str(healthy.port))
    right = run("doctor", *here)
    assert (right.status, "nothing is wrong" in right.out) == (0, True)
    monkeypatch.setenv("WITHSTAND_PROT", "8000")
    wrong = run("doctor", *here)
    assert (wrong.status, "1 problem" in wrong.out) == (1, True)
    assert '"is_problem": true' in run("doctor", *here, "--json").out
