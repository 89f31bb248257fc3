"""Pictures of tens of megabytes in JSON are read beside the event loop: everybody else is answered meanwhile."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from common.pictures import PictureError
from service.http.bodies.picture_uploads import PIECE, from_base64
from service.settings import Settings
from tests.server import Server, serving
from tests.service.health import LIMIT_S, Holds, measured
from tests.service.kserve.requests import INFER, json_request
from tests.service.pictures import DISC, URL

LARGE = DISC + np.random.default_rng(0).bytes(46 * 2**20)
"""A picture with much behind it: in JSON it is nearly all that a body may have."""

HEADERS = {"Content-Type": "application/json"}
BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    URL: lambda encoded: {"images": [encoded]},
    URL.replace("predict", "classify"): lambda encoded: {"inputs": encoded},
    INFER: lambda encoded: json_request(data=[encoded]),
}


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes bodies of the size that it takes unless told otherwise."""
    changed = {"data_dir": tmp_path_factory.mktemp("large"), "max_body_bytes": Settings().max_body_bytes}
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.mark.parametrize("path", BODIES)
def test_the_largest_json_holds_nobody_up(own: Server, path: str) -> None:
    small, large = (json.dumps(BODIES[path](base64.b64encode(each).decode())).encode() for each in (DISC, LARGE))
    assert own.http.post(path, content=small, headers=HEADERS).status_code == 200, "the model is in memory"
    rounds: list[Holds] = []
    for _ in range(2):
        with measured(own.loop) as holds:
            assert own.http.post(path, content=large, headers=HEADERS).status_code == 200
        rounds.append(holds)
    busy_s, seconds = (min(getattr(each, field) for each in rounds) for field in ("busy_s", "seconds"))
    print(f"{path}: the event loop was held for {1e3 * busy_s:.0f} ms of its own, {1e3 * seconds:.0f} ms in all")
    assert busy_s < LIMIT_S


def test_base64_in_pieces_is_that_of_one() -> None:
    data = np.random.default_rng(0).bytes(2 * PIECE)
    for size in (0, 1, 2, 3, PIECE // 4 * 3 - 1, PIECE // 4 * 3, PIECE // 4 * 3 + 1, 2 * PIECE):
        assert from_base64(base64.b64encode(data[:size]).decode()) == data[:size]


@pytest.mark.parametrize(
    "text", ["AAA", "A===", "AA==AAAA", "A" * (PIECE - 2) + "==AAAA", "AA==\n", "A\nAAA", "=", "é"]
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(PictureError, match="not base64"):
        from_base64(text)
