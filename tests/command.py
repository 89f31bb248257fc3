"""The command in this process, as the console script runs it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cli.main
from evaluation import Catalog


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, as the console script does."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["withstand", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main.main()
            raise SystemExit(0)
        status = ended.value.code or 0
        assert isinstance(status, int)
        return Ended(status, *capfd.readouterr())

    return run


@pytest.fixture
def here(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the tiny models and their data are; results are stored beside."""
    monkeypatch.chdir(tmp_path)
    return ["--model-dir", str(catalog.model_folders[0]), "--dataset-dir", str(catalog.dataset_folders[0])]
