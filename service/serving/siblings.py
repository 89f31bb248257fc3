"""The other processes of a service: what a client tells one of them, all of them do before it is answered."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread
from typing import Any

from service.serving.errors import StuckError

PROMPT_S = 2.0
"""How long a process may take for an answer that needs no work."""

_log = logging.getLogger(__name__)


class Siblings:
    """Each process listens on a socket of its own in a folder that only they know.

    Args:
        folder: of this service's processes; None if there is one process.
        obey: does what another process was told, and returns the answer; it is called on threads.
    """

    def __init__(self, folder: Path | None, obey: Callable[..., Any]) -> None:
        self._folder = folder / "siblings" if folder is not None else None
        self._obey = obey
        self._listener: Listener | None = None

    def start(self) -> None:
        """Begin to listen."""
        if self._folder is None:
            return
        self._folder.mkdir(exist_ok=True)
        self._listener = Listener(str(self._folder / str(os.getpid())), "AF_UNIX", authkey=_key())
        Thread(target=self._listen, args=(self._listener,), name="siblings", daemon=True).start()

    def stop(self) -> None:
        """Listen no longer."""
        if self._listener is not None:
            self._listener.close()

    def _listen(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
                if self._listener is None or isinstance(error, OSError):  # closed
                    return
                continue
            Thread(target=self._answer, args=(connection,), name="sibling", daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection, suppress(OSError, EOFError):
            try:
                answer = self._obey(*connection.recv())
            except Exception as error:  # whoever was told raises it
                answer = error
            connection.send(answer)

    def tell(self, *order: Any, timeout_s: float | None = None) -> list[Any]:
        """Tell all others something; returns their answers. A process that has ended has none.

        Raises:
            StuckError: one did not answer in time.
            Exception: what one of them raised.
        """
        told = [(process, connection) for process in self._others() if (connection := _connect(process)) is not None]
        for _, connection in told:
            with suppress(OSError):
                connection.send(order)
        answers = [_answer_of(process, connection, timeout_s) for process, connection in told]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in answers if answer is not _ENDED]

    def _others(self) -> Sequence[Path]:
        if self._folder is None:
            return ()
        return [each for each in sorted(self._folder.iterdir()) if each.name != str(os.getpid())]


_ENDED = object()


def _key() -> bytes:
    return bytes(multiprocessing.current_process().authkey)  # spawned processes have that of the one that spawned them


def _connect(process: Path) -> Connection | None:
    try:
        return Client(str(process), "AF_UNIX", authkey=_key())
    except (ConnectionRefusedError, FileNotFoundError):
        process.unlink(missing_ok=True)  # it has ended
    except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
        _log.warning("process %s cannot be told anything: %s", process.name, error)
    return None


def _answer_of(process: Path, connection: Connection, timeout_s: float | None) -> Any:
    with connection:
        try:
            if not connection.poll(timeout_s):
                return StuckError(f"process {process.name} of the service has not answered for {timeout_s:g} s")
            return connection.recv()
        except (OSError, EOFError):
            return _ENDED
