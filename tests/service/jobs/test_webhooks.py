"""Webhooks are called once their evaluation has ended, signed, until they accept; never at an address that is not public."""

import asyncio
import ipaddress
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from evaluation import Catalog
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import Damaged, Evaluation
from service.jobs.store import Store, SupersededError
from service.jobs.webhooks import sender
from service.jobs.webhooks.sender import PAUSES_S, Webhooks
from service.jobs.webhooks.targets import WebhookError, WebhookTargets, is_public
from tests.server import a_plan, until
from tests.service.jobs.dispatching import Threads
from tests.service.jobs.stores import change, drain, on_sqlite
from tests.service.receiver import SECRET, receiving

HOSTS = frozenset({"localhost", "127.0.0.1", "hooks.example.org"})


def describe(evaluation: Evaluation | Damaged) -> str:
    return f'{{"id": "{evaluation.id}"}}'


def caller(*hosts: str) -> Webhooks:
    return Webhooks(WebhookTargets(frozenset(hosts) or HOSTS), SECRET, describe)


def call(store: Store, calling: Webhooks | None = None) -> None:
    """Call what is due, and wait for the answers."""
    calling = calling or caller()
    calling.deliver(store)
    if calling._thread is not None:
        calling._thread.join()


def ended(store: Store, url: str) -> None:
    store.submit(a_plan(), webhook=url)
    drain(store)


def waiting(store: Store) -> int:
    with store.database.reading() as db:
        return db.exec_driver_sql("SELECT count(*) FROM deliveries").scalar_one()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PAUSES_S", (0.0,) * len(PAUSES_S))


def test_a_webhook_is_called_once_when_its_evaluation_has_ended(store: Store) -> None:
    with receiving() as receiver:
        store.submit(a_plan(), webhook=receiver.url)
        call(store)
        assert receiver.calls == []
        drain(store)
        call(store)
        call(store)
        assert receiver.bodies() == [{"id": a_plan().id}]
        assert receiver.calls[0][0] == "/hook"
        assert receiver.calls[0][1]["host"] == httpx.URL(receiver.url).netloc.decode()
        assert waiting(store) == 0


def test_each_who_asks_is_called_and_asking_again_calls_again(store: Store) -> None:
    with receiving() as receiver:
        for owner, path in (("one", "a"), ("one", "b"), ("two", "a"), ("two", "a")):
            store.submit(a_plan(), owner=owner, webhook=f"{receiver.url}/{path}")
        drain(store)
        call(store)
        assert sorted(path for path, _, _ in receiver.calls) == ["/hook/a", "/hook/a", "/hook/b"]
        assert not store.submit(a_plan(), owner="one", webhook=receiver.url), "there is nothing to compute"
        call(store)
        assert len(receiver.calls) == 4
        assert len(set(receiver.ids())) == 4


def test_who_no_longer_asks_is_not_called(store: Store) -> None:
    with receiving() as receiver:
        for owner in ("one", "two"):
            store.submit(a_plan(), owner=owner, webhook=f"{receiver.url}/{owner}")
        store.cancel(a_plan().id, "one")
        store.cancel(a_plan().id, "two")
        call(store)
        assert [path for path, _, _ in receiver.calls] == ["/hook/two"]
        assert receiver.ids()[0].endswith("_cancelled")


def test_an_evaluation_that_cannot_be_read_calls_too(store: Store, database: Path | str) -> None:
    with receiving() as receiver:
        store.submit(a_plan(), webhook=receiver.url)
        change(database, "UPDATE evaluations SET plan = 'x'")
        assert store.claim() is None
        call(store)
        assert receiver.ids()[0].endswith("_failed")


def test_removing_an_evaluation_forgets_its_webhooks(store: Store) -> None:
    ended(store, "http://localhost:1/hook")
    assert store.remove(a_plan().id) is not None
    assert waiting(store) == 0


def test_an_answer_of_500_is_tried_again_with_the_same_id(store: Store, impatient: None) -> None:
    with receiving(500, 503) as receiver:
        ended(store, receiver.url)
        for _ in range(4):
            call(store)
        assert len(receiver.bodies()) == 3
        assert len(set(receiver.ids())) == 1
        assert waiting(store) == 0


def test_pauses_between_tries_grow_to_an_hour_in_all(store: Store, database: Path | str) -> None:
    assert 3600 <= sum(PAUSES_S) <= 4200
    assert sorted(PAUSES_S) == [*PAUSES_S]
    with receiving(*[500] * 10) as receiver:
        ended(store, receiver.url)
        for tries in range(1, 7):
            call(store)
            call(store)
            assert len(receiver.calls) == tries
            if tries < 6:
                change(database, f"UPDATE deliveries SET due_at = due_at - {PAUSES_S[tries - 1]} - 1")
        assert waiting(store) == 0, "after six tries it is given up"


def test_a_webhook_is_called_after_a_restart(database: Path | str) -> None:
    with receiving(500) as receiver:
        with closing(Store.at(database)) as store:
            ended(store, receiver.url)
            call(store)
        change(database, "UPDATE deliveries SET due_at = 0")
        with closing(Store.at(database)) as store:
            call(store)
        assert len(receiver.calls) == 2
        assert len(set(receiver.ids())) == 1


def test_a_redirect_is_not_followed(store: Store) -> None:
    with receiving(302) as receiver:
        ended(store, receiver.url)
        call(store)
        assert [path for path, _, _ in receiver.calls] == ["/hook"]
        assert waiting(store) == 1


def test_a_proxy_of_the_environment_is_not_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        ended(store, receiver.url)
        call(store)
        assert (len(receiver.calls), len(proxy.calls)) == (1, 0)


@on_sqlite
def test_a_receiver_that_does_not_answer_holds_up_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, receiving() as receiver:
        store.submit(a_plan(), webhook=f"http://localhost:{silent.getsockname()[1]}/")
        ended(store, receiver.url)
        call(store)
        assert len(receiver.calls) == 1
        assert waiting(store) == 1


@on_sqlite
def test_a_dispatcher_that_was_replaced_settles_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first = store.take_dispatch(locked=False)
    assert first is not None
    first.leave_dispatch()
    assert store.take_dispatch(locked=False) is not None
    with receiving() as receiver:
        ended(store, receiver.url)
        call(first)
        assert "taken the dispatch over" in caplog.text
        assert waiting(store) == 1
    with pytest.raises(SupersededError), first.writing():
        pass


@on_sqlite
def test_the_name_is_resolved_once_and_the_address_that_was_checked_is_called(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look-up would find what an attacker's name server answers meanwhile."""
    asked: list[Any] = []
    resolve = socket.getaddrinfo

    def resolved(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in {"localhost", b"localhost"}:
            asked.append("localhost")
        return resolve("127.0.0.1" if len(asked) == 1 else host, *args, **kwargs)

    with receiving() as receiver:
        ended(store, receiver.url)
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        call(store)
        assert len(receiver.calls) == 1
    assert asked == ["localhost"]


@on_sqlite
def test_a_public_name_with_a_private_address_is_not_called(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: resolve("127.0.0.1", *args, **more))
    with receiving() as receiver:
        port = httpx.URL(receiver.url).port
        ended(store, f"https://hooks.example.org:{port}/?token=hidden")
        call(store)
        assert receiver.calls == []
    assert "'hooks.example.org' of the webhook has the address 127.0.0.1, which is not public" in caplog.text
    assert "hidden" not in caplog.text


def test_localhost_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: resolve("8.8.8.8", *args, **more))
    targets = WebhookTargets(HOSTS)
    with pytest.raises(WebhookError, match=r"8\.8\.8\.8"):
        asyncio.run(targets.address_of(targets.parse("https://localhost")))


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1"),
        *("::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::a00:1"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_may_be_called(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://other.example.org/", "'other.example.org' of the webhook is not in WITHSTAND_WEBHOOK_HOSTS"),
        ("https://10.0.0.1/", "'10.0.0.1' of the webhook is not in"),
        ("https://hooks.example.org.evil.net/", "is not in"),
        ("https://hooks.example.org@evil.net/", "has a user name or password"),
        ("http://hooks.example.org/", "must begin with https://, got http://"),
        ("ftp://localhost/", "must begin with https://, got ftp://"),
        ("hooks.example.org", "'' of the webhook is not in"),
        ("https://[::1/", "is no URL"),
    ],
)
def test_what_may_not_be_called_is_refused(url: str, reason: str) -> None:
    with pytest.raises(WebhookError, match=reason.replace("[", r"\[")):
        WebhookTargets(HOSTS).parse(url)


def test_a_listed_private_address_may_be_called() -> None:
    targets = WebhookTargets(frozenset({"10.1.2.3"}))
    assert asyncio.run(targets.address_of(targets.parse("https://10.1.2.3/hook"))) == "10.1.2.3"


@pytest.fixture
def certified(tmp_path: Path) -> Callable[[str], tuple[ssl.SSLContext, Path]]:
    """Make a certificate for a name."""

    def make(name: str) -> tuple[ssl.SSLContext, Path]:
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject, *files]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context, certificate

    return make


@on_sqlite
@pytest.mark.parametrize(("name", "calls"), [("localhost", 1), ("other.example.org", 0)])
def test_the_certificate_must_be_the_hosts(
    store: Store,
    certified: Callable[[str], tuple[ssl.SSLContext, Path]],
    name: str,
    calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although an address is called."""
    context, certificate = certified(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with receiving(tls=context) as receiver:
        ended(store, receiver.url)
        call(store)
        assert len(receiver.calls) == calls
        assert waiting(store) == 1 - calls


def test_the_dispatcher_calls_and_a_standby_does_not(store: Store, threads: Threads, catalog: Catalog) -> None:
    with receiving() as receiver:
        ended(store, receiver.url)
        both = [Dispatcher(store, catalog, lambda: {"cpu": threads}, caller()) for _ in range(2)]
        for each in both:
            each.start()
        until(lambda: receiver.calls and waiting(store) == 0)
        for each in both:
            each.stop()
        assert len(receiver.calls) == 1
