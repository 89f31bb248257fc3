"""Predictions go first: an evaluation on the same cores takes what they leave."""

from collections.abc import Iterator

import pytest

from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.latency import p99_s

ATTACK = {"name": "pgd", "parameters": {"steps": 1000}}
LONG = {
    "models": ["resnet_mini.fashion_mnist_pgd"],
    "dataset": "fashion_mnist_test",
    "images": 200,
    "conditions": [{"kind": "adversarial", "threat": {"norm": "Linf", "eps": "1/255"}, "attacks": [ATTACK]}],
}


@pytest.fixture
def server(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("data")})) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_evaluation_hardly_delays_predictions(server: Server) -> None:
    p99_s(server, 20)  # loads the model
    alone_s = min(p99_s(server, 400) for _ in range(2))
    submitted = server.http.post("/v1/evaluations", json=LONG)
    assert submitted.status_code == 202, submitted.text
    link = submitted.json()["links"]["self"]
    until(
        lambda: (
            server.http.get(link).json()["progress"]["images_done"]
            or server.http.get(link).json()["status"] != "pending"
        )
    )
    until(lambda: server.http.get(link).json()["status"] == "running")
    beside_s = min(p99_s(server, 400) for _ in range(2))
    assert server.http.get(link).json()["status"] == "running", "it ended before it could delay anybody"
    assert server.http.delete(link).is_success
    print(f"p99 alone {1e3 * alone_s:.1f} ms, beside {1e3 * beside_s:.1f} ms")
    assert beside_s < max(2 * alone_s, 0.05), f"p99 {1e3 * alone_s:.0f} ms alone, {1e3 * beside_s:.0f} ms beside"
