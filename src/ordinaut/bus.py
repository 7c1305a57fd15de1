"""The transport of events: Redis Streams, on one server, behind Sentinel, or on a Cluster.

Redis is never the truth, PostgreSQL's outbox is: an entry that Redis took may vanish with it.
So each append leaves the relay's marker beside the entries, in one transaction, and the relay
goes on from what Redis itself says it has (see ``ordinaut.scheduler.spine``).

The address is ``redis://``, ``rediss://``, ``unix://``, or::

    redis+sentinel://[user:password@]host:port,host:port/service[/database]
    redis+cluster://[user:password@]host:port

Every failure to reach the server is :class:`~ordinaut.errors.Unavailable`; the client itself
tries once more and no longer, because a Sentinel client that keeps dialling a dead address
learns of the new one too late. Callers wait and come again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import orjson
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ordinaut import cancellation
from ordinaut.errors import InvalidInput, Unavailable

FAMILY = "ordinaut:"  # what the names of all our keys begin with
EVENTS = "ordinaut:events"
DEAD = ":dead"  # what the names of streams of dead letters end with
REDELIVERED_TO = "redelivered_to"  # the field that names the only group meant by a message
# The hash tag puts the marker into the slot of the stream it speaks of, also on a Cluster.
MARKER = f"ordinaut:relay:{{{EVENTS}}}"
FIRST = "0-0"  # the id before which there is none
MAX_LENGTH = 100_000  # entries of a stream, about; what fell out is still in the outbox

# One command for a batch: the client packs one argument for each entry, not twenty, and nobody
# comes between the look at the marker and the entries.
APPEND = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 4, #ARGV do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(cjson.decode(ARGV[i])))
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

CONNECT_TIMEOUT = 3.0  # seconds
ANSWER_TIMEOUT = 10.0  # seconds; a blocking read must ask for less
MAX_BLOCK = 5.0  # seconds
DEFAULT_SENTINEL_PORT = 26_379

_EXTENSION_TOPIC = re.compile(r"ext\.([^.]+)\.(.+)")
_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


class Entry(NamedTuple):
    """A message on its way into a stream."""

    stream: str
    fields: Mapping[str, str]


class Message(NamedTuple):
    """A message that was read; ``deliveries`` counts how often a group was given it."""

    stream: str
    id: str
    fields: Mapping[str, str]
    deliveries: int = 1


def entry_id(text: str) -> str:
    """Return the id of an entry as Redis writes it; raises :class:`ValueError` for what is none."""
    found = _ENTRY_ID.fullmatch(text)
    parts = [int(part) for part in found.groups()] if found else []
    if not parts or max(parts) >= 1 << 64:
        raise ValueError("the id of an entry is two numbers: 1700000000000-0")
    return "{}-{}".format(*parts)


def extension_stream(extension: str, name: str) -> str:
    """Return the stream of one kind of an extension's events."""
    return f"ordinaut:ext:{extension}:{name}"


def streams_of(topic: str) -> list[str]:
    """Return the streams that events of a topic reach: that of all, and its extension's own."""
    found = _EXTENSION_TOPIC.fullmatch(topic)
    return [EVENTS, extension_stream(*found.groups())] if found else [EVENTS]


class Bus:
    """A connection pool to Redis; opened and closed by ``async with``."""

    def __init__(self, url: str) -> None:
        self._client, *self._watchers = _clients(url)

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in (self._client, *self._watchers):
            await client.aclose()

    @property
    def pool(self) -> ConnectionPool | None:
        """The connections, for what else is kept in Redis; ``None`` on a Cluster."""
        return self._client.connection_pool if isinstance(self._client, Redis) else None

    async def ping(self) -> None:
        """Raise :class:`Unavailable` when the server does not answer."""
        async with _reaching():
            await self._client.ping()

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: str | None,
        marker: str,
        limit: int = MAX_LENGTH,
    ) -> bool:
        """Append entries in their order and replace the marker, unless it is not as ``expected``.

        False says that Redis lost entries, or another relay was faster: nothing was appended to
        the stream of all events then. Other streams may live on other nodes of a Cluster; they
        come first and may get an entry twice.
        """
        others = [entry for entry in entries if entry.stream != EVENTS]
        texts = [_flattened(entry.fields) for entry in entries if entry.stream == EVENTS]
        async with _reaching():
            if others:
                async with self._client.pipeline(transaction=False) as pipe:
                    await _add(pipe, others, limit).execute()
            given = (MARKER, EVENTS, expected or "", marker, limit, *texts)
            return bool(await self._client.eval(APPEND, 2, *given))

    async def put(self, entry: Entry, *, limit: int = MAX_LENGTH) -> None:
        """Append one entry, without a marker: for streams that are not kept in the outbox."""
        async with _reaching():
            fields = dict(entry.fields)
            await self._client.xadd(entry.stream, fields, maxlen=limit, approximate=True)

    async def marker(self) -> str | None:
        """Return what the last append left; None when Redis lost it, or never had one."""
        async with _reaching():
            found: str | None = await self._client.get(MARKER)
            return found

    async def tail(self, stream: str, *, after: str, block: float, limit: int) -> list[Message]:
        """Wait up to ``block`` seconds for messages behind ``after`` (``$`` is the end)."""
        async with _reaching():
            answer = await self._client.xread(
                {stream: after}, count=limit, block=_milliseconds(block)
            )
            return _messages(answer)

    async def ensure_group(self, stream: str, group: str, *, start: str = "$") -> None:
        """Let ``group`` read ``stream`` from ``start`` on; it may exist already."""
        async with _reaching():
            try:
                await self._client.xgroup_create(stream, group, id=start, mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read(
        self, stream: str, group: str, consumer: str, *, block: float, limit: int
    ) -> list[Message]:
        """Wait for messages that no consumer of ``group`` was given; a lost group is made anew.

        A group that Redis lost starts at the beginning of the stream: what the relay has put
        there again since is delivered again rather than not at all.
        """
        async with _reaching():
            try:
                answer = await self._client.xreadgroup(
                    group, consumer, {stream: ">"}, count=limit, block=_milliseconds(block)
                )
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self.ensure_group(stream, group, start="0")
                return []
            return _messages(answer)

    async def claim(
        self, stream: str, group: str, consumer: str, *, idle: float, limit: int
    ) -> list[Message]:
        """Take over messages whose consumer has not acknowledged them for ``idle`` seconds."""
        async with _reaching():
            _, found, *gone = await self._client.xautoclaim(
                stream, group, consumer, min_idle_time=_milliseconds(idle), count=limit
            )
            if gone and gone[0]:  # trimmed while pending: nothing is left to handle
                await self._client.xack(stream, group, *gone[0])
            if not found:
                return []
            pending = await self._client.xpending_range(
                stream, group, min=found[0][0], max=found[-1][0], count=limit, consumername=consumer
            )
            times = {row["message_id"]: row["times_delivered"] for row in pending}
            return [Message(stream, i, fields, times.get(i, 1)) for i, fields in found]

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """Say that messages were handled."""
        if ids:
            async with _reaching():
                await self._client.xack(stream, group, *ids)

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        """Remove a consumer that ended, unless messages wait for it: those are to be claimed."""
        async with _reaching():
            waiting = await self._client.xpending_range(
                stream, group, min="-", max="+", count=1, consumername=consumer
            )
            if not waiting:
                await self._client.xgroup_delconsumer(stream, group, consumer)

    async def streams(self) -> list[str]:
        """Return the streams that exist, in alphabetical order."""
        async with _reaching():
            scan = self._client.scan_iter(match=f"{FAMILY}*", count=1_000, _type="stream")
            return sorted({name async for name in scan})

    async def groups(self, stream: str) -> list[Mapping[str, Any]]:
        """Return what Redis says of the groups of a stream (``XINFO GROUPS``)."""
        async with _reaching():
            found: list[Mapping[str, Any]] = await self._client.xinfo_groups(stream)
            return found

    async def consumers(self, stream: str, group: str) -> list[Mapping[str, Any]]:
        """Return what Redis says of the consumers of a group (``XINFO CONSUMERS``)."""
        async with _reaching():
            found: list[Mapping[str, Any]] = await self._client.xinfo_consumers(stream, group)
            return found

    async def length(self, stream: str) -> int:
        """Return how many messages a stream has; 0 when there is none of this name."""
        async with _reaching():
            found: int = await self._client.xlen(stream)
            return found

    async def newest(self, stream: str, *, before: str | None, limit: int) -> list[Message]:
        """Return the newest messages of a stream that come ``before`` one, the newest first."""
        if before == FIRST:
            return []
        async with _reaching():
            last = "+" if before is None else f"({before}"
            found = await self._client.xrevrange(stream, max=last, count=limit)
            return [Message(stream, id, fields) for id, fields in found]

    async def pick(self, stream: str, ids: Sequence[str]) -> list[Message]:
        """Return those messages of a stream that exist among ``ids``."""
        async with _reaching():
            found = [await self._client.xrange(stream, min=id, max=id) for id in ids]
            return [Message(stream, id, fields) for pairs in found for id, fields in pairs]

    async def remove(self, stream: str, ids: Sequence[str]) -> int:
        """Take messages out of a stream; return how many there were."""
        async with _reaching():
            gone: int = await self._client.xdel(stream, *ids) if ids else 0
            return gone


@asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    try:
        with cancellation.heeded():
            yield
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis: {error}") from error


def _flattened(fields: Mapping[str, str]) -> bytes:
    """Return names and values by turns, as a JSON array."""
    return orjson.dumps([word for field in fields.items() for word in field])


def _add(pipe: Any, entries: Sequence[Entry], limit: int) -> Any:
    for stream, fields in entries:
        pipe.xadd(stream, dict(fields), maxlen=limit, approximate=True)
    return pipe


def _clients(url: str) -> list[Any]:  # redis-py's clients share their commands but no base class
    """Return the client of an address, then those that must be closed with it."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }
    parts = urlsplit(url)
    match parts.scheme:
        case "redis" | "rediss" | "unix":
            return [Redis.from_url(url, retry=Retry(NoBackoff(), 1), **options)]
        case "redis+cluster":
            return [RedisCluster.from_url("redis" + url.removeprefix("redis+cluster"), **options)]
        case "redis+sentinel":
            return _behind_sentinel(parts, options)
    raise InvalidInput.at(
        "REDIS_URL",
        f"{parts.scheme}:// is not known; use redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster://",
    )


def _behind_sentinel(parts: SplitResult, options: dict[str, Any]) -> list[Any]:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise InvalidInput.at(
            "REDIS_URL", "redis+sentinel:// needs the name of the service: …host:port/service"
        )
    hosts = parts.netloc.rpartition("@")[2].split(",")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        [_address(host) for host in hosts],
        sentinel_kwargs={"socket_connect_timeout": CONNECT_TIMEOUT},
    )
    master = sentinel.master_for(
        service,
        db=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        retry=Retry(NoBackoff(), 1),
        **options,
    )
    return [master, *sentinel.sentinels]


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return (name, int(port)) if name else (host, DEFAULT_SENTINEL_PORT)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _messages(answer: Any) -> list[Message]:
    # RESP3 answers with a dictionary, RESP2 with pairs; entries of RESP3 are one list deeper.
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    return [
        Message(stream, id, fields)
        for stream, entries in pairs
        for id, fields in _flat(entries)
        if fields
    ]


def _flat(entries: Any) -> Iterable[tuple[str, Mapping[str, str]]]:
    # A message is (id, fields); what begins with something else than an id is a list of them.
    nested = bool(entries) and not isinstance(entries[0][0], str)
    found: Iterable[tuple[str, Mapping[str, str]]] = entries[0] if nested else entries
    return found
