"""A PostgreSQL server from Debian's package, on a socket in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.server import until

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path(shutil.which("initdb") or "/none/x").parent)
USER = "postgres" if os.geteuid() == 0 else None
"""Whom the server runs as: root may not."""

PASSWORD = "a%secret/word"


class Postgresql:
    """A server that keeps nothing when the machine fails, but is fast."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._numbers = folder, count()
        if USER:
            shutil.chown(folder, USER)
        folder.chmod(0o755)
        self._run("initdb", "--pgdata", folder / "data", "--username", "postgres", "--auth", "trust", "--no-sync")
        rules = "local all guarded scram-sha-256\nlocal all all trust\n"
        (folder / "data" / "pg_hba.conf").write_text(rules)
        self.start()
        self.execute(f"CREATE USER guarded PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        options = ["-F", "-h", "", "-k", self.folder, "-c", "full_page_writes=off", "-c", "max_connections=300"]
        command = [PROGRAMS / "postgres", "-D", self.folder / "data", *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", user=USER)
        until(self._answers)

    def stop(self) -> None:
        """End it at once, with all its connections."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def url(self, name: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{name}?host={self.folder}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute(statement)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of a new database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        yield self.url(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: object) -> None:
        command = [PROGRAMS / program, *map(str, arguments)]
        subprocess.run(command, cwd="/", user=USER, check=True, capture_output=True)


@contextmanager
def running() -> Iterator[Postgresql]:
    """Start a server; the test is skipped where there is none."""
    if not (PROGRAMS / "postgres").exists():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="withstand-postgresql-") as folder:
        started = Postgresql(Path(folder))
        try:
            yield started
        finally:
            started.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    with running() as started:
        yield started
