"""How often somebody may come: requests of an agent, failed sign-ins of an address, runs an hour.

Counted in Redis, for all processes together, by the library ``limits``. An agent's requests are
counted by the handful: a process takes a hundredth of what is allowed at a time, so that a
request rarely waits for Redis. While Redis is away agents are let in uncounted, and failed
sign-ins are counted by each process on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, TypeVar
from uuid import UUID

from limits import RateLimitItem, RateLimitItemPerHour, parse
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import RateLimiter, SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from ordinaut import cancellation
from ordinaut.bus import Bus
from ordinaut.clock import SystemClock
from ordinaut.config import Settings
from ordinaut.errors import TooManyRequests, Unauthenticated
from ordinaut.telemetry import logger

PATIENCE: Final = 0.25  # seconds for Redis; a request is not worth more
AWAY: Final = 1.0  # seconds in which Redis is not asked again after it did not answer
HANDFUL: Final = 100  # the part of a limit that a process takes at a time is one of so many
PREFIX: Final = "ordinaut:limit"
CAPACITY: Final = 10_000
NETWORK_BITS: Final = 64  # of an IPv6 address: what one customer has

T = TypeVar("T")

log = logger(__name__)
_clock = SystemClock()  # the library reads the real one


class Limits:
    """Counts, and raises :class:`TooManyRequests` with the seconds until it is worth coming."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._rate = parse(settings.rate_limit) if settings.rate_limit else None
        self._sign_in = parse(settings.sign_in_limit) if settings.sign_in_limit else None
        runs = settings.quota_runs_per_hour
        self._runs = RateLimitItemPerHour(runs) if runs else None
        self._storage = _storage(settings.redis_url, bus)
        self._shared = SlidingWindowCounterRateLimiter(self._storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._in_hand: dict[UUID, int] = {}
        self._away_until = 0.0

    async def close(self) -> None:
        """Close the connections that are not those of the bus."""
        if isinstance(self._storage, RedisClusterStorage):
            client: Any = self._storage.bridge
            await client.get_connection().aclose()

    async def admit(self, agent_id: UUID) -> None:
        """Count a request of an agent."""
        if self._rate is None:
            return
        left = self._in_hand.get(agent_id, 0)
        if left == 0:
            left = await self._take(self._rate, str(agent_id))
        if len(self._in_hand) >= CAPACITY:
            self._in_hand.clear()
        self._in_hand[agent_id] = left - 1

    async def runs(self, agent_id: UUID, count: int) -> None:
        """Count runs that an agent starts by request."""
        item = self._runs
        if item is None:
            return
        if count > item.amount or not await self._ask(
            partial(self._shared.hit, item, "runs", str(agent_id), cost=count), default=True
        ):
            raise await self._refusal(item, self._shared, "runs", str(agent_id))

    @asynccontextmanager
    async def signing_in(self, address: str, *, known: bool = False) -> AsyncIterator[None]:
        """Count what fails within; who failed too often is not looked at, unless he is known."""
        place = _place(address)
        if not known:
            await self._check_sign_in(place)
        try:
            yield
        except Unauthenticated:
            await self._count_failure(place)
            raise

    async def _check_sign_in(self, place: str) -> None:
        item = self._sign_in
        if item is None:
            return
        own = await self._own.test(item, "sign_in", place)
        if own and await self._ask(
            partial(self._shared.test, item, "sign_in", place), default=True
        ):
            return
        raise await self._refusal(item, self._shared if own else self._own, "sign_in", place)

    async def _count_failure(self, place: str) -> None:
        item = self._sign_in
        if item is not None:
            await self._own.hit(item, "sign_in", place)
            await self._ask(partial(self._shared.hit, item, "sign_in", place), default=True)

    async def _take(self, item: RateLimitItem, agent: str) -> int:
        """Take a handful of what is allowed, or the last one; none is a refusal."""
        for cost in dict.fromkeys((max(1, item.amount // HANDFUL), 1)):
            if await self._ask(
                partial(self._shared.hit, item, "agent", agent, cost=cost), default=True
            ):
                return cost
        raise await self._refusal(item, self._shared, "agent", agent)

    async def _refusal(
        self, item: RateLimitItem, limiter: RateLimiter, *names: str
    ) -> TooManyRequests:
        now = _clock.now().timestamp()

        async def reset() -> float:
            return (await limiter.get_window_stats(item, *names)).reset_time

        seconds = await self._ask(reset, default=now + item.get_expiry()) - now
        what = {"agent": "requests", "runs": "runs", "sign_in": "failed sign-ins"}[names[0]]
        text = f"more than {item.amount} {what} in {item.get_expiry()} s"
        return TooManyRequests(text, retry_after=max(1, round(seconds + 0.5)))

    async def _ask(self, question: Callable[[], Awaitable[T]], *, default: T) -> T:
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            return default
        try:
            with cancellation.heeded():
                async with asyncio.timeout(PATIENCE):
                    return await question()
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            log.warning("limits.redis_away", error=str(error) or type(error).__name__)
            self._away_until = loop.time() + AWAY
            return default


def _storage(url: str, bus: Bus) -> RedisStorage | RedisClusterStorage:
    if bus.pool is None:
        return RedisClusterStorage(f"async+{url}", implementation="redispy", key_prefix=PREFIX)
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=PREFIX,
        connection_pool=bus.pool,  # type: ignore[arg-type]  # its annotation knows scalars only
    )


def _place(address: str) -> str:
    """Return what failed sign-ins are counted by."""
    try:
        found = ip_address(address.split("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return f"{int(found) >> (128 - NETWORK_BITS):x}/{NETWORK_BITS}"
    return str(found)
