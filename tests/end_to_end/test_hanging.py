"""A server ends when it is told to, whatever its threads are waiting for."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import httpx
import pytest

from evaluation import Catalog
from tests.conftest import Put
from tests.end_to_end.processes import server

LONGEST_S = 10.0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_with_threads_that_hang_ends_in_time(catalog: Catalog, put_checkpoint: Put, tmp_path: Path) -> None:
    folder, data = tmp_path / "models", tmp_path / "data"
    folder.mkdir()
    path = put_checkpoint(folder, "endless")
    path.unlink()
    os.mkfifo(path)  # reading it waits for a writer that never comes
    where = Catalog((*catalog.model_folders, folder), catalog.dataset_folders)
    with server(where, data, tmp_path / "log") as (process, client):
        assert client.ready()
        url = str(client._http.base_url)
        with ThreadPoolExecutor(4) as threads:
            paths = ("/v1/models/endless", "/v1/models")
            asked = [threads.submit(httpx.get, url + each, timeout=30) for each in paths * 2]
            sleep(1)
            assert not any(each.done() for each in asked), "nothing hangs"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            assert time.monotonic() - began < LONGEST_S
