"""Several processes behind one port: any of them answers, one of them dispatches, all count together."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.processes import children, end, free_port, wait_for
from tests.server import until
from withstand import Client

ROOT = Path(__file__).parents[2]
MODEL = "resnet_mini.fashion_mnist"
PICTURE = (ROOT / "docs" / "dress.png").read_bytes()
TLS = httpx.create_ssl_context()
"""Is not used, and takes each client long to make."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def several_do_what_one_is_told(url: str, headers: dict[str, str]) -> None:
    """Load and unload a model that was not asked for yet; connections of their own reach either process."""
    path = "/v1/models/dat_mini.fashion_mnist"

    def ask(method: str, action: str) -> int:
        with httpx.Client(base_url=url, headers=headers, timeout=60, verify=TLS) as http:
            return http.request(method, f"{path}/{action}").status_code

    for action, ready in (("load", 200), ("unload", 503), ("load", 200)):
        assert ask("POST", action) == 200
        assert {ask("GET", "ready") for _ in range(12)} == {ready}


def test_two_processes_answer_on_one_port(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "cli.main", "serve", "--workers", "2", "--port", str(port)]
    environment = os.environ | {"WITHSTAND_API_KEYS": '["k"]', "WITHSTAND_TOP_K": "ignored"}
    started = subprocess.Popen([*command, "--data-dir", str(tmp_path)], cwd=ROOT, env=environment)
    try:
        with Client(url) as client:
            wait_for(client.ready)
        headers = {"X-API-Key": "k"}

        def predict(_: int) -> str:
            with httpx.Client(base_url=url, headers=headers, timeout=60, verify=TLS) as http:  # a connection of its own
                answer = http.post(f"/v1/models/{MODEL}/predict", content=PICTURE)
                assert answer.status_code == 200, answer.text
                return answer.json()["predictions"][0]["top"][0]["label"]

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(predict, range(60))) == {"Dress"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            assert (
                http.post(f"/v1/models/{MODEL}/predict", content=PICTURE, headers={"X-API-Key": "no"}).status_code
                == 401
            )
            assert httpx.get(f"{url}/healthz", headers={"X": "a" * 70_000}).status_code == 431
            page = http.get("/metrics").text
            total = re.search(r'^withstand_predictions_total{.*outcome="ok".*} (\S+)$', page, flags=re.MULTILINE)
            assert total
            assert float(total[1]) == 60, "all processes are counted, whichever answers"
            spec = {"models": [MODEL], "dataset": "fashion_mnist_test", "images": 20, "conditions": [{"kind": "clean"}]}
            link = http.post("/v1/evaluations", json=spec).json()["links"]["self"]
            until(lambda: http.get(link).json()["status"] == "done", 120)
            several_do_what_one_is_told(url, headers)
            states = {http.get("/readyz", headers={"Connection": "close"}).json()["dispatcher"] for _ in range(40)}
            assert "active" in states
        workers = [
            each for each in children(started.pid) if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
        ]
        assert len(workers) == 2
    finally:
        end(started)
