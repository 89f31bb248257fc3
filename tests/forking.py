"""Python processes that tests start are forked from one that has imported what they need: a new interpreter takes seconds.

In every other respect they are like new ones: whoever starts them is their parent, and they have their own files, folder,
environment, session, exit status, and arguments in /proc. `is_prepared` says what is forked; all else is a new interpreter, such
as the console script and `python -c`, but for texts that come from `python`. Each forked process but a fork server has a twin as
its child, from which what it starts is forked in turn.
"""

import _posixsubprocess
import atexit
import ctypes
import fcntl
import gc
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import dropwhile
from multiprocessing import current_process
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

MODULES = (
    "cli.commands.demo",
    "cli.commands.evaluate",
    "cli.commands.serve",
    "service.app",
    "service.jobs.executors",
    "submitit.core.submission",
    "torchvision",
)
"""What is imported beforehand."""

TEXT = "# imports what tests.forking has imported\n"

PREPARED = (f"-c {TEXT}", "-m cli.main ", "-m submitit.", "-m benchmarks.")
PREPARED += tuple(f"-c from multiprocessing.{module} import " for module in ("spawn", "forkserver"))
"""How the arguments of an interpreter begin that needs it."""

ROOT = Path(__file__).parents[1]
SUBREAPER = 36
LONGEST_BYTES = 2**20
MOST_FILES = 64
ROOM = "-" * 4000
"""An argument that is overwritten by those of the forked process."""


def _read_by_imports(environment: Mapping[str, str]) -> list[object]:
    """What decides what is imported, or is read while it is."""
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [{str(ROOT), *folders} - {""}, *map(environment.get, ("PROMETHEUS_MULTIPROC_DIR", "TRITON_INTERPRET"))]


HERE = _read_by_imports(os.environ)


def is_prepared(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command is this interpreter, and needs what is imported beforehand, as it was imported."""
    usual = command[0] == sys.executable and _read_by_imports(environment) == HERE
    return usual and " ".join(_without_flags(command)).startswith(PREPARED)


def python(text: str, *arguments: object) -> list[str]:
    """The command that runs a text with arguments in a process that is forked."""
    return [sys.executable, "-c", TEXT + text, *map(str, arguments)]


def _without_flags(command: Sequence[str]) -> list[str]:
    return [*dropwhile(lambda each: each in {"-B", "-u"}, command[1:])]


@dataclass(frozen=True)
class Order:
    """A process to fork.

    Attributes:
        command: the interpreter and its arguments.
        environment: its variables.
        folder: where it works.
        files: the numbers that its files have.
        new_session: whether it leads a session of its own.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    files: Sequence[int]
    new_session: bool


class Prepared:
    """The process from which others are forked. It ends once the socket is closed through which it takes orders."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders, self._lock = orders, threading.Lock()

    def fork(self, order: Order, files: Sequence[int]) -> int:
        """Fork a child of this process, and return its id; `files` are the numbers that its files have here."""
        with self._lock, _adopting_orphans():
            socket.send_fds(self._orders, [pickle.dumps(order)], files)
            return int(self._orders.recv(LONGEST_BYTES))


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Descendants of this process become its children where their parents end."""
    control = ctypes.CDLL(None).prctl
    control(SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        control(SUBREAPER, 0, 0, 0, 0)


@contextmanager
def forking() -> Iterator[None]:
    """Fork what this process starts, as far as it is prepared."""
    start = _posixsubprocess.fork_exec
    with ExitStack() as running:
        _fork_from(cache(lambda: running.enter_context(_started())))
        yield
        _posixsubprocess.fork_exec = subprocess._fork_exec = start


@contextmanager
def _started() -> Iterator[Prepared]:
    """Start an interpreter that prepares itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", "from tests.forking import main; main()", str(theirs.fileno()), ROOM]
    files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
    with subprocess.Popen(command, cwd=ROOT, **files), ours:
        theirs.close()
        yield Prepared(ours)


def _fork_from(prepared: Callable[[], Prepared]) -> None:
    """Let `subprocess` and `multiprocessing` fork what they start, as far as it is prepared."""
    start, network = _posixsubprocess.fork_exec, _network()

    def fork_exec(*asked: Any) -> int:
        command, _, _, passed, folder, environment, stdin, _, _, stdout, _, stderr, _, errors, _, new_session, *_ = (
            asked
        )
        words, variables = [os.fsdecode(each) for each in command], _decoded(environment)
        if not is_prepared(words, variables) or _network() != network:
            return start(*asked)
        others = [each for each in passed if each != errors]
        streams = [number if given == -1 else given for number, given in enumerate((stdin, stdout, stderr))]
        where = str(Path.cwd()) if folder is None else os.fsdecode(folder)
        return prepared().fork(Order(words, variables, where, [0, 1, 2, *others], new_session), [*streams, *others])

    _posixsubprocess.fork_exec = subprocess._fork_exec = fork_exec


def _network() -> str:
    """The namespace of this thread, which may have left the one of its process."""
    return os.readlink("/proc/thread-self/ns/net")  # noqa: PTH115  # it is no path


def _decoded(environment: Sequence[bytes] | None) -> dict[str, str]:
    if environment is None:
        return dict(os.environ)
    pairs = (os.fsdecode(each).partition("=") for each in environment)
    return {name: value for name, _, value in pairs}


def _serve(orders: socket.socket) -> tuple[Order, Prepared | None]:
    """Fork what is ordered; returns in a process that was forked, with its order and its twin, if it has one."""
    while True:
        data, received, _, _ = socket.recv_fds(orders, LONGEST_BYTES, MOST_FILES)
        if not data:
            os._exit(0)
        if between := os.fork():
            os.waitpid(between, 0)
            _close(received)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.001)
        order: Order = pickle.loads(data)
        if order.new_session:
            os.setsid()
        orders.send(str(os.getpid()).encode())
        orders.close()
        _take(received, order.files)
        if "multiprocessing.forkserver" in order.command[-1]:
            return order, None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            theirs.close()
            return order, Prepared(ours)
        ours.close()
        _close(order.files[3:])
        _take([os.open(os.devnull, os.O_RDWR) for _ in range(3)], range(3))
        orders = theirs


def _close(files: Sequence[int]) -> None:
    for each in files:
        os.close(each)


def _take(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give open files other numbers."""
    above = max(numbers) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in files]
    _close(files)
    for each, number in zip(moved, numbers, strict=True):
        os.dup2(each, number)
    _close(moved)


def _become(order: Order) -> None:
    """Be the process that was ordered, up to its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _show(order.command)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    current_process().authkey = os.urandom(32)


def _show(command: Sequence[str]) -> None:
    """Replace the arguments of this process in /proc."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    shown = "\0".join(command).encode()[: end - start - 1]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _run(command: Sequence[str]) -> None:
    """Run a module or a text as an interpreter does."""
    kind, what, *others = _without_flags(command)
    sys.stdout.reconfigure(write_through="-u" in command)
    sys.argv = [kind, *others]
    sys.modules["__main__"] = ModuleType("__main__")
    sys.path[0] = str(Path.cwd()) if kind == "-m" else ""
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, vars(sys.modules["__main__"]))


def _end(run: Callable[[], None]) -> NoReturn:
    """Run the code of a process and end it as an interpreter does, but for freeing every object, which takes seconds."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.stderr.write(f"{ended.code}\n" * isinstance(ended.code, str))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for each in MODULES:
        import_module(each)
    gc.freeze()


def main() -> NoReturn:
    """Be the process from which others are forked."""
    _prepare()
    order, twin = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(order)
    if twin is not None:
        _fork_from(lambda: twin)
    _end(partial(_run, order.command))
