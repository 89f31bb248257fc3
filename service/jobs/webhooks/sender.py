"""Calls webhooks when evaluations have ended, as the Standard Webhooks specification says: signed, and again until accepted."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Thread

import httpx
from standardwebhooks import Webhook

from service.jobs.evaluations import Damaged, Delivery, Evaluation, Status
from service.jobs.store import Store, SupersededError
from service.jobs.webhooks.deliveries import due_deliveries, settle_delivery
from service.jobs.webhooks.targets import WebhookError, WebhookTargets
from service.sql.database import StoreError

PAUSES_S = (10.0, 60.0, 300.0, 900.0, 2700.0)
"""Between the tries to call a webhook, seconds; after the last one it is given up."""

TIMEOUT_S = 10.0
"""Longest try, seconds."""

TOGETHER = 16
"""Webhooks that are called at the same time."""

LONGEST_STOP_S = 2.0
"""How long a server that ends waits for answers, seconds; what is not answered is sent again."""

Describe = Callable[[Evaluation | Damaged], str]
"""Writes the body for an evaluation that has ended."""

_log = logging.getLogger(__name__)


class Webhooks:
    """Calls webhooks of the dispatcher's evaluations on a thread; rows of the database say which, so that none is lost.

    Each is called until it answers with 2xx: at least once, with the same `webhook-id` each time.

    Args:
        targets: which may be called.
        secret: signs what is sent.
        describe: writes the bodies.
    """

    def __init__(self, targets: WebhookTargets, secret: str, describe: Describe) -> None:
        self._targets, self._describe = targets, describe
        self._signer = Webhook(secret)
        self._tls = ssl.create_default_context()
        self._thread: Thread | None = None

    def deliver(self, store: Store) -> None:
        """Begin to call what is due, unless the last calls have yet to be answered."""
        if self._thread is not None and self._thread.is_alive():
            return
        with store.database.reading() as db:
            due = due_deliveries(db, TOGETHER)
        if due:
            self._thread = Thread(target=self._call_all, args=(store, due), name="webhooks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait a moment for the calls that are under way."""
        if self._thread is not None:
            self._thread.join(LONGEST_STOP_S)

    def _call_all(self, store: Store, due: Sequence[Delivery]) -> None:
        try:
            asyncio.run(self._call_together(store, due))
        except* (StoreError, SupersededError) as errors:  # they stay due
            _log.warning("webhooks will be called again: %s", errors.exceptions[0])

    async def _call_together(self, store: Store, due: Sequence[Delivery]) -> None:
        async with asyncio.TaskGroup() as group:
            for each in due:
                group.create_task(self._call(store, each))

    async def _call(self, store: Store, delivery: Delivery) -> None:
        retry_after_s: float | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._send(delivery)
        except Exception as error:  # whatever is wrong with one, the others are called
            retry_after_s = dict(enumerate(PAUSES_S)).get(delivery.tries)
            then = "is given up" if retry_after_s is None else f"is called again in {retry_after_s:g} s"
            reason = str(error) or type(error).__name__
            job = delivery.evaluation.id
            _log.warning("the webhook of evaluation %s failed and %s: %s", job, then, reason, extra={"job": job})
        with store.writing() as db:
            settle_delivery(db, delivery, retry_after_s)

    async def _send(self, delivery: Delivery) -> None:
        """Call the address that was checked: looking the name up again could give another one.

        Raises:
            WebhookError: it may not be called, or did not accept.
            httpx.HTTPError: it does not answer.
        """
        url = self._targets.parse(delivery.url)
        pinned = url.copy_with(host=await self._targets.address_of(url), fragment=None)
        body = self._describe(delivery.evaluation)
        headers = {"Host": url.netloc.decode(), "Content-Type": "application/json"} | self._signature(delivery, body)
        by_name = {"sni_hostname": url.host}
        async with (
            httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client,
            client.stream("POST", pinned, content=body, headers=headers, extensions=by_name) as answer,
        ):
            if not answer.is_success:
                raise WebhookError(f"it answered {answer.status_code}")

    def _signature(self, delivery: Delivery, body: str) -> dict[str, str]:
        ended = delivery.evaluation
        message = f"msg_{delivery.id}_{Status.FAILED if isinstance(ended, Damaged) else ended.status}"
        now = datetime.now(UTC)
        return {
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message, now, body),
        }
