"""The sender of webhooks: claims deliveries that are due, posts them, writes down what came of it.

::

    settle    what came of attempts since the last round, in one transaction
    claim     as many as there is room for, and of one webhook no more than its share
    post      each in a task of its own, with a limit of time; its end wakes the loop

Any number of senders work on one database. One that dies between the answer of a receiver and
its commit has delivered what nobody knows of: the lease runs out, and the delivery is attempted
again under the same id. Deliveries of one webhook run side by side, so their order is not
promised.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final
from uuid import UUID

import httpx2
import psycopg

from ordinaut.engine import webhooks as standard
from ordinaut.errors import OrdinautError
from ordinaut.guard import Policy, guarded_transport
from ordinaut.store import deliveries, webhooks
from ordinaut.store.database import Database
from ordinaut.store.deliveries import GONE, Attempted, Claim
from ordinaut.store.secrets import Keyring, Sealed
from ordinaut.telemetry import emit, logger

ROOM: Final = 100  # attempts at a time, in one process
SHARE: Final = 4  # of one webhook; one that fails gets 1
TIMEOUT: Final = 15.0  # seconds for an attempt, from the look-up of the name to the answer
LEASE: Final = timedelta(seconds=60)
PATIENCE: Final = timedelta(days=5)  # for a webhook that fails, before it is disabled
MOST_READ: Final = 16_384  # bytes of an answer, so that its connection may serve again
LONGEST_ERROR: Final = 500  # characters
FAREWELL: Final = 1.0  # seconds

log = logger(__name__)


class Sender:
    """Sends the deliveries of one database; ``wake`` is called when an attempt has ended."""

    def __init__(
        self,
        db: Database,
        keys: Keyring,
        policy: Policy,
        *,
        wake: Callable[[], None] = lambda: None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._db = db
        self._keys = keys
        self._policy = policy
        self._wake = wake
        self._timeout = timeout
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._ended: list[Attempted] = []
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Sender:
        self._client = httpx2.AsyncClient(
            transport=guarded_transport(self._policy, max_connections=ROOM),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=None,  # asyncio.timeout bounds the whole attempt
            trust_env=False,  # a proxy from the environment would lead around the guard
            follow_redirects=False,
            headers={"user-agent": "ordinaut-webhooks"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write down what has ended, and give back the rest without spending an attempt."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        with suppress(TimeoutError, psycopg.Error):
            async with asyncio.timeout(FAREWELL):
                await self._settle(None)
                if self._running:
                    async with self._db.connection() as tx:
                        await deliveries.release(tx, list(self._running.values()))
        if self._client is not None:
            await self._client.aclose()

    async def run_once(self, *, now: datetime | None = None) -> bool:
        """Do one round; True when it began attempts. ``now`` is the database's time if left out."""
        await self._settle(now)
        room = ROOM - len(self._running)
        async with self._db.connection() as tx:
            if room <= 0 or not await deliveries.due(tx, now=now):
                return False
        busy = Counter(claim.webhook_id for claim in self._running.values())
        async with self._db.transaction() as tx:
            claims = await deliveries.claim(
                tx, limit=room, share=SHARE, busy=busy, lease=LEASE, now=now
            )
            sealed = await webhooks.sealed_secrets(tx, {c.webhook_id for c in claims}, now=now)
        for claim in claims:
            task = asyncio.create_task(self._attempt(claim, sealed), name=f"webhook {claim.id}")
            self._running[task] = claim
            task.add_done_callback(self._end)
        return bool(claims)

    async def idle(self) -> None:
        """Wait until no attempt is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # else it is given back at the end
            del self._running[task]
            self._wake()

    async def _settle(self, now: datetime | None) -> None:
        ended = list(self._ended)
        if not ended:
            return
        async with self._db.transaction() as tx:
            counted = await deliveries.settle(tx, ended, patience=PATIENCE, now=now)
        # Only now: what could not be written down is tried again in the next round.
        del self._ended[: len(ended)]
        for status, count in Counter(one.status for one in ended).items():
            emit("webhooks.attempted", status=status, deliveries=count)
        if len(counted) < len(ended):
            log.warning("webhooks.late", deliveries=len(ended) - len(counted))

    async def _attempt(self, claim: Claim, sealed: Mapping[UUID, Sequence[Sealed]]) -> None:
        self._ended.append(await self._result(claim, sealed.get(claim.webhook_id, ())))

    async def _result(self, claim: Claim, sealed: Sequence[Sealed]) -> Attempted:
        """Post a delivery; whatever goes wrong is a failed attempt."""
        try:
            secrets = webhooks.opened(self._keys, claim.webhook_id, sealed)
            async with asyncio.timeout(self._timeout):
                status = await self._post(claim, secrets)
        except TimeoutError:
            return _failed(claim, f"no answer in {self._timeout:g} s")
        except OrdinautError as error:  # no allowed address, or no key for the secret
            return _failed(claim, error.message)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            return _failed(claim, str(error) or type(error).__name__)
        except Exception as error:  # the others must go on, and this one is tried again
            log.exception("webhooks.fault", delivery_id=str(claim.id))
            return _failed(claim, type(error).__name__)
        if 200 <= status < 300:
            return Attempted(claim, "delivered", status)
        if status == GONE:
            return Attempted(claim, "dead", status, "the address is gone (410)")
        hint = "; redirects are not followed" if 300 <= status < 400 else ""
        return _failed(claim, f"the answer was {status}{hint}", status)

    async def _post(self, claim: Claim, secrets: Sequence[str]) -> int:
        assert self._client is not None  # it was entered
        body = claim.body.encode()
        headers = standard.headers(secrets, str(claim.id), body, at=claim.now)
        async with self._client.stream("POST", claim.url, content=body, headers=headers) as answer:
            read = 0
            async for part in answer.aiter_raw():
                read += len(part)
                if read > MOST_READ:
                    break
            return answer.status_code


def _failed(claim: Claim, error: str, status: int | None = None) -> Attempted:
    pause = standard.pause_after(claim.attempts + 1, spread=random.random())
    kept = error.replace("\0", "")[:LONGEST_ERROR]
    return Attempted(claim, "dead" if pause is None else "pending", status, kept, pause)
