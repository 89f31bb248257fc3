"""Pages of what is running: only what changed is sent, each picture once, and compressed."""

import gzip
import io
import re
from base64 import b64encode
from typing import Any

import httpx
import pytest
from PIL import Image

from service.http.pages.sections import Tab
from tests.server import Server, until
from tests.service.http.asked import SPEC
from tests.service.pictures import SQUARE

SMALL_BYTES = 1024
SHARDS = 45


class Reader:
    """Does what the page's script does, and counts the bytes on the wire."""

    def __init__(self, http: httpx.Client, path: str) -> None:
        self._http, self._path = http, path
        self.page_bytes = self.bytes = self.updates = 0
        self.sections: dict[str, str] = {}
        with http.stream("GET", path) as answer:
            self.page_bytes = sum(map(len, answer.iter_raw()))
        self.take(http.get(path).text)

    def take(self, html: str) -> list[str]:
        found = re.findall(r'<div id="([\w-]+)" data-hash="(\w+)">', html)
        self.sections |= dict(found)
        return [name for name, _ in found]

    def update(self) -> tuple[list[str], str]:
        """Ask for what changed; returns the ids of the sections and their HTML."""
        body = [*self.sections.values()]
        with self._http.stream("POST", f"{self._path.rstrip('/')}/changes", json=body) as answer:
            raw = b"".join(answer.iter_raw())
            assert answer.status_code == 200
            encoded = answer.headers.get("content-encoding")
        self.bytes, self.updates = self.bytes + len(raw), self.updates + 1
        html = (gzip.decompress(raw) if encoded == "gzip" else raw).decode()
        return self.take(html), html


def submit(server: Server, **fields: object) -> dict[str, Any]:
    return server.http.post("/v1/evaluations", json=SPEC | fields).raise_for_status().json()


def finish(server: Server, state: dict[str, Any]) -> None:
    until(lambda: server.http.get(state["links"]["self"]).json()["status"] == "done")


def test_a_page_that_watches_an_evaluation_receives_less_than_one_reload_of_it(fresh: Server) -> None:
    state = submit(fresh, selection_seed=1)  # nothing of it is computed
    assert state["progress"]["shards_total"] == SHARDS
    table = f"{state['links']['page']}/table"
    reader = Reader(fresh.http, table)
    reloaded = pages = 0
    while "data-live" in (page := fresh.http.get(table, headers={"Accept-Encoding": ""}).text):
        names, html = reader.update()
        if names:
            pages, reloaded = pages + 1, reloaded + len(page)
        assert "base64" not in html
    reader.update()
    assert reader.update() == ([], ""), "nothing changes any more"
    whole = Reader(fresh.http, table)
    assert reader.sections == whole.sections, "the sections that were sent make the page as it is now"
    assert pages > 3
    assert reader.bytes < reloaded / 4


def test_a_picture_is_a_file_of_its_own_that_browsers_keep(fresh: Server) -> None:
    state = submit(fresh)
    finish(fresh, state)
    pages = [fresh.http.get(f"{state['links']['page']}/images?model={each}").text for each in SPEC["models"]]
    pictures = re.findall(r'src="([^"]+\.png)"', "".join(pages))
    assert pictures
    for path in pictures:
        picture = fresh.http.get(path)
        assert picture.headers["content-type"] == "image/png"
        assert "max-age" in picture.headers["cache-control"]
        assert Image.open(io.BytesIO(picture.content)).size == (32, 32)
    report = fresh.http.get(state["links"]["report"], params={"format": "html"}).text
    inlined = {b64encode(fresh.http.get(path).content).decode() for path in pictures}
    assert inlined == set(re.findall(r"data:image/png;base64,([^\"]+)", report)), (
        "those of the file that needs no other"
    )


@pytest.mark.parametrize(
    "path", ["0/0/0/clean.png", "9/1/0/clean.png", "0/9/0/clean.png", "0/1/999999/clean.png", "0/1/0/attention.png"]
)
def test_a_picture_that_is_not_there_is_a_problem(fresh: Server, path: str) -> None:
    state = submit(fresh, images=3)
    finish(fresh, state)
    answer = fresh.http.get(f"{state['links']['page']}/pictures/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_the_first_page_sends_the_evaluations_that_changed_or_are_new(fresh: Server) -> None:
    until(lambda: "counting" not in fresh.http.get("/datasets").text)
    finish(fresh, submit(fresh, images=5))
    reader = Reader(fresh.http, "/")
    assert reader.update() == ([], "")
    state = submit(fresh, images=6)
    finish(fresh, state)
    names, html = reader.update()
    assert names == ["results"]
    assert f'id="result-{state["id"]}"' in html
    assert "data-live" not in html


def test_a_page_that_the_browser_holds_is_not_sent_again(fresh: Server) -> None:
    state = submit(fresh, images=3)
    finish(fresh, state)
    for path in ("/", state["links"]["page"]):
        until(lambda path=path: "data-live" not in fresh.http.get(path).text)
        tag = fresh.http.get(path).headers["etag"]
        again = fresh.http.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert fresh.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_report_is_rendered_once_for_each_state(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    state = submit(fresh, images=3)
    finish(fresh, state)
    readers = [Reader(fresh.http, f"{state['links']['page']}/{tab}") for tab in Tab]
    monkeypatch.setattr(fresh.service.store, "results", lambda _: pytest.fail("the results were read again"))
    assert [each.update() for each in readers] == [([], "")] * len(readers)


@pytest.mark.parametrize("path", ["/", "/v1/evaluations", "/docs", "/openapi.json", "/static/live.js", "/metrics"])
def test_texts_are_compressed_where_the_client_accepts_it(fresh: Server, path: str) -> None:
    submit(fresh, images=3)
    with fresh.http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    plain = fresh.http.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    if len(plain.content) < SMALL_BYTES:
        assert "content-encoding" not in answer.headers
    else:
        assert answer.headers["content-encoding"] == "gzip"
        assert "Accept-Encoding" in answer.headers["vary"]
        assert len(raw) < len(plain.content) / 1.5


def test_predictions_and_what_is_compressed_already_are_sent_as_they_are(fresh: Server) -> None:
    state = submit(fresh, images=3)
    finish(fresh, state)
    accepting = {"Accept-Encoding": "gzip"}
    files = [("file", (f"{100 * 'a'}.png", SQUARE))] * 4
    predicted = fresh.http.post("/v1/models/tiny/predict", files=files, headers=accepting)
    parquet = fresh.http.get(state["links"]["report"], params={"format": "parquet"}, headers=accepting)
    assert len(predicted.raise_for_status().content) > SMALL_BYTES
    assert len(parquet.raise_for_status().content) > SMALL_BYTES
    for answer in (predicted, parquet):
        assert "content-encoding" not in answer.headers


def test_events_are_neither_compressed_nor_held_back(fresh: Server) -> None:
    state = submit(fresh, selection_seed=2)
    with fresh.http.stream("GET", state["links"]["events"], headers={"Accept-Encoding": "gzip"}) as answer:
        assert "content-encoding" not in answer.headers
        first = next(answer.iter_lines())
        assert first.startswith("event: progress")
        assert fresh.http.get(state["links"]["self"]).json()["status"] != "done", "it arrived before the end"
