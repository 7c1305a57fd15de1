"""What ``ordinaut doctor`` looks at, each with what to do when it is wrong."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import redis
import tzdata

from ordinaut.clock import Clock, SystemClock
from ordinaut.store import cluster, health, migrate
from ordinaut.store.health import Server

OLDEST_POSTGRES = 16
OLDEST_REDIS = 7
MAX_SKEW = timedelta(seconds=2)
CONNECT_TIMEOUT = 5  # seconds


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``advice`` is for when it is not ok."""

    subject: str
    ok: bool
    text: str
    advice: str = ""


def examine(
    database_url: str | None,
    redis_url: str | None,
    *,
    direct_url: str | None = None,
    clock: Clock | None = None,
) -> Iterator[Finding]:
    """Look at everything; what builds on something that failed is left out."""
    yield _python()
    yield Finding("time zones", True, f"tzdata {tzdata.IANA_VERSION}")
    if database_url is None:
        yield _unset("database", "DATABASE_URL")
    else:
        yield from asyncio.run(_database(database_url, direct_url, clock or SystemClock()))
    yield _unset("redis", "REDIS_URL") if redis_url is None else _redis(redis_url)


def _python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Finding("python", fits, platform.python_version(), "use Python 3.11 to 3.14")


def _unset(subject: str, variable: str) -> Finding:
    return Finding(
        subject, False, f"{variable} is not set", f"set {variable}, or start `ordinaut dev`"
    )


async def _database(url: str, direct_url: str | None, clock: Clock) -> list[Finding]:
    try:
        async with await _connect(url) as connection:
            before = clock.now()
            server = await health.server(connection)
            skew = abs(server.clock - (before + (clock.now() - before) / 2))
            findings = [_version(server), _skew(skew), _schema(server)]
            if await health.pooled(connection):
                findings.insert(0, await _pooler(direct_url))
            if findings[-1].ok:
                running = Counter(
                    process.kind
                    for process in await cluster.workers(connection, now=server.clock)
                    if process.state == "running"
                )
                findings += [_alive(kind, running[kind]) for kind in ("scheduler", "worker")]
            return findings
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        return [Finding("database", False, reason, "check DATABASE_URL, and that the server runs")]


async def _connect(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, connect_timeout=CONNECT_TIMEOUT, prepare_threshold=None
    )


async def _pooler(direct_url: str | None) -> Finding:
    advice = "let DATABASE_DIRECT_URL lead past the pooler: LISTEN and migrations need a session"
    if direct_url is None:
        return Finding("pooler", False, "in between, DATABASE_DIRECT_URL is not set", advice)
    async with await _connect(direct_url) as connection:
        past = not await health.pooled(connection)
    text = "leads past it" if past else "leads through it as well"
    return Finding("pooler", past, f"in between, DATABASE_DIRECT_URL {text}", advice)


def _version(server: Server) -> Finding:
    return Finding(
        "database",
        server.major >= OLDEST_POSTGRES,
        f"PostgreSQL {server.major}",
        f"use PostgreSQL {OLDEST_POSTGRES} or newer",
    )


def _skew(skew: timedelta) -> Finding:
    seconds = skew.total_seconds()
    return Finding(
        "clock",
        skew <= MAX_SKEW,
        f"{seconds:.3f} s from the database's",
        "set both clocks by NTP: due times are the database's",
    )


def _schema(server: Server) -> Finding:
    head = migrate.head()
    return Finding(
        "schema",
        server.revision == head,
        f"at {server.revision or 'nothing'}, this version wants {head}",
        "run `ordinaut migrate`",
    )


def _alive(kind: str, count: int) -> Finding:
    return Finding(kind, count > 0, f"{count} running", f"start `ordinaut {kind}`")


def _redis(url: str) -> Finding:
    advice = "check REDIS_URL, and that the server runs"
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT) as client:
            version = str(client.info("server")["redis_version"])
    except (redis.RedisError, ValueError) as error:
        return Finding("redis", False, str(error), advice)
    fits = int(version.split(".")[0]) >= OLDEST_REDIS
    return Finding("redis", fits, version, f"use Redis {OLDEST_REDIS} or newer, or Valkey")
