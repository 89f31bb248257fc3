"""Forked processes are like new ones, but for the time that they take."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.processes import alive, children
from tests.forking import is_prepared, python
from tests.server import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

SHOWN = """
import os, sys
print(os.getppid(), os.getsid(0), os.environ["WHO"], sys.argv[1:], "service.app" in sys.modules)
print(os.getcwd(), open("/proc/self/cmdline").read().rstrip("\\0").count("\\0"), sys.stdin.read(), flush=True)
print("said", file=sys.stderr)
raise SystemExit(7)
"""


def test_a_forked_process_is_a_child_with_what_it_was_given(tmp_path: Path) -> None:
    done = subprocess.run(
        python(SHOWN, "one", "two"),
        cwd=tmp_path,
        env=os.environ | {"WHO": "me"},
        input="asked",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    first, second = done.stdout.splitlines()
    parent, session, rest = first.split(maxsplit=2)
    assert int(parent) == os.getpid() and int(session) != os.getsid(0)
    assert rest == "me ['one', 'two'] True"
    assert second == f"{tmp_path} 4 asked"
    assert (done.stderr, done.returncode) == ("said\n", 7)


def test_what_ends_it_is_its_status() -> None:
    raising = subprocess.run(python("raise ValueError('wrong')"), capture_output=True, text=True, check=False)
    assert raising.returncode == 1 and raising.stderr.endswith("ValueError: wrong\n")
    speaking = subprocess.run(python("raise SystemExit('why')"), capture_output=True, text=True, check=False)
    assert (speaking.returncode, speaking.stderr) == (1, "why\n")
    with subprocess.Popen(python("import time; time.sleep(60)")) as process:
        assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_what_it_starts_is_forked_from_its_twin_and_both_end_with_it() -> None:
    inner = python("import os, sys; print(os.getppid(), 'service.app' in sys.modules)")
    code = f"import os, subprocess, time; subprocess.run({inner!r}); print('done', flush=True); time.sleep(60)"
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid} True\n"
        assert process.stdout.readline() == "done\n"
        (twin,) = children(process.pid)
        process.kill()
    until(lambda: not alive(twin), 10)


@pytest.mark.parametrize(
    ("command", "environment", "expected"),
    [
        ([sys.executable, "-m", "cli.main", "serve"], {}, True),
        ([sys.executable, "-m", "cli.main", "serve"], {"PYTHONPATH": "/elsewhere"}, False),
        ([sys.executable, "-m", "cli.main", "serve"], {"PROMETHEUS_MULTIPROC_DIR": "/some"}, False),
        ([sys.executable, "-m", "cli.main", "serve"], {"TRITON_INTERPRET": "1"}, False),
        ([sys.executable, "-u", "-m", "submitit.core._submit", "folder"], {}, True),
        ([sys.executable, "-W", "error", "-m", "cli.main", "serve"], {}, False),
        ([sys.executable, "-c", "import service.app"], {}, False),
        ([str(Path(sys.executable).with_name("withstand")), "serve"], {}, False),
        (["python", "-m", "cli.main", "serve"], {}, False),
    ],
)
def test_only_what_is_prepared_is_forked(command: Sequence[str], environment: dict[str, str], expected: bool) -> None:
    own = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    assert is_prepared(command, own | environment) == expected
