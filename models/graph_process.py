"""Runs a graph from a file in a process of its own: it may crash or loop there, and that is an error of its model alone."""

import io
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Lock
from typing import Any, Self
from weakref import finalize

import numpy as np
import torch
from torch import Tensor, nn

from common.processes import end_with_parent

START_LIMIT_S = 120.0
"""Longest start of a process, loading the graph included."""
RUN_LIMIT_S = 10.0
"""Longest run of a batch."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
"""How long a graph that crashed or ran for too long is not run again, as others need the thread that waits for it: at first and at
most. The pause doubles each time, until the graph is loaded anew."""

_LOGITS, _ERROR = b"L", b"E"


class GraphError(ValueError):
    """A graph cannot be loaded, does not run, crashed or ran for too long; the message says which."""


class GraphProcess(nn.Module):
    """Takes the place of a graph, and asks a process that has it; gradients do not come back.

    Args:
        load: called in the process with the path; loads the graph.
        path: of its file.

    Raises:
        GraphError: the process cannot load the graph.
    """

    def __init__(self, load: Callable[[Path], nn.Module], path: Path) -> None:
        super().__init__()
        self._load, self._path = load, path
        self._lock, self._harms, self._resumes_at = Lock(), 0, 0.0
        self._process, self._connection = self._start()
        shapes = np.frombuffer(self._receive(START_LIMIT_S), np.int64)
        self.sizes = nn.ParameterList(  # without memory here: what a model takes is counted by its parameters
            nn.Parameter(torch.empty(int(size), device="meta"), requires_grad=False) for size in shapes
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stay as it is: the process follows the device of the images."""
        del fn, recurse
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, K).

        Raises:
            GraphError: the graph does not run, crashed or ran for too long.
        """
        with self._lock:
            self._require_running()
            self._connection.send_bytes(str(images.device).encode())
            self._connection.send_bytes(_packed(images))
            answer = self._receive(RUN_LIMIT_S)
        return torch.from_numpy(np.load(io.BytesIO(answer), allow_pickle=False)).to(images.device)

    def _require_running(self) -> None:
        if self._process.is_alive():
            return
        if (rest_s := self._resumes_at - time.monotonic()) > 0:
            times = "once" if self._harms == 1 else f"{self._harms} times"
            raise GraphError(
                f"the graph crashed or ran for too long, {times} by now, and is not run for another {rest_s:.0f} s, or until the "
                "model is unloaded and loaded again"
            )
        self._process, self._connection = self._start()
        self._receive(START_LIMIT_S)

    def _start(self) -> tuple[SpawnProcess, "Connection[Any, Any]"]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._load, self._path), daemon=True)
        process.start()
        theirs.close()
        finalize(self, process.kill)
        return process, ours

    def _receive(self, limit_s: float) -> bytes:
        try:
            answer = self._connection.recv_bytes() if self._connection.poll(limit_s) else None
        except (EOFError, OSError):
            self._pause()
            raise GraphError(
                f"the process that ran the graph ended (exit code {self._process.exitcode}): the graph crashed"
            ) from None
        if answer is None:
            self._process.kill()
            self._pause()
            raise GraphError(f"the graph ran for more than {limit_s:g} s and was stopped")
        if answer[:1] == _ERROR:
            raise GraphError(answer[1:].decode(errors="replace"))
        return answer[1:]

    def _pause(self) -> None:
        """Wait for the end of the process, and leave the graph alone for a while, twice as long each time."""
        self._process.join()
        self._resumes_at = time.monotonic() + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._harms)
        self._harms += 1


def _packed(tensor: Tensor) -> bytes:
    data = io.BytesIO()
    np.save(data, tensor.detach().cpu().numpy(), allow_pickle=False)  # the process may send what it likes
    return data.getvalue()


def _serve(connection: "Connection[Any, Any]", load: Callable[[Path], nn.Module], path: Path) -> None:
    end_with_parent()
    try:
        graph = load(path)
    except Exception as error:  # whatever the graph raises is said there
        connection.send_bytes(_ERROR + str(error).encode())
        return
    connection.send_bytes(_LOGITS + np.array([each.numel() for each in graph.parameters()], np.int64).tobytes())
    while True:
        device = connection.recv_bytes().decode()
        images = torch.from_numpy(np.load(io.BytesIO(connection.recv_bytes()), allow_pickle=False))
        try:
            with torch.inference_mode():
                answer = _LOGITS + _packed(graph.to(device)(images.to(device)))
        except Exception as error:
            answer = _ERROR + str(error).encode()
        connection.send_bytes(answer)
