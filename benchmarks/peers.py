"""Consumers of other queues, each started as a process of its own by ``benchmarks.queue``.

    python -m benchmarks.peers {pgqueuer|procrastinate|celery} VERB URL [NUMBER]

``enqueue`` queues jobs one by one and ``fill`` many at a time; both print how many a second.
``drain`` prints when its first job began and when it was done; ``listen`` prints how late each
job began until its standard input is closed. All jobs do nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import uvloop

ENQUEUE = 1_000  # jobs in one call
CONCURRENCY = 100


def report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


async def until_closed() -> None:
    await asyncio.to_thread(sys.stdin.read)


class PgQueuerPeer:
    """pgqueuer with asyncpg, its fastest driver."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def queries(self) -> Any:
        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        return Queries(AsyncpgDriver(await asyncpg.connect(self.url)))

    async def install(self, _: int) -> None:
        await (await self.queries()).install()

    async def enqueue(self, count: int) -> None:
        queries, begin = await self.queries(), time.time()
        for _ in range(count):
            await queries.enqueue("noop", None, 0)
        report(per_second=count / (time.time() - begin))

    async def fill(self, count: int) -> None:
        queries, begin = await self.queries(), time.time()
        for _ in range(count // ENQUEUE):
            await queries.enqueue(["noop"] * ENQUEUE, [None] * ENQUEUE, [0] * ENQUEUE)
        report(per_second=count / (time.time() - begin))

    async def drain(self, batch: int) -> None:
        import asyncpg
        from pgqueuer import PgQueuer
        from pgqueuer.types import QueueExecutionMode

        first: list[float] = []
        queuer = PgQueuer.from_asyncpg_pool(await asyncpg.create_pool(self.url, min_size=5))

        @queuer.entrypoint("noop")
        async def noop(job: Any) -> None:
            if not first:
                first.append(time.time())

        await queuer.qm.run(
            dequeue_timeout=timedelta(seconds=1), batch_size=batch, mode=QueueExecutionMode.drain
        )
        report(first=first[0] if first else None, last=time.time())

    async def listen(self, batch: int) -> None:
        import asyncpg
        from pgqueuer import PgQueuer

        late: list[float] = []
        queuer = PgQueuer.from_asyncpg_pool(await asyncpg.create_pool(self.url, min_size=5))

        @queuer.entrypoint("stamp")
        async def stamp(job: Any) -> None:
            late.append(time.time() - float(job.payload))

        running = asyncio.create_task(queuer.qm.run(batch_size=batch))
        report(ready=True)
        await until_closed()
        report(late=late)
        queuer.shutdown.set()
        await asyncio.wait([running], timeout=5)

    async def produce(self, count: int) -> None:
        queries = await self.queries()
        for _ in range(count):
            await queries.enqueue("stamp", str(time.time()).encode(), 0)
            await asyncio.sleep(1 / 50)


class ProcrastinatePeer:
    """procrastinate with psycopg, in its own defaults but for the concurrency."""

    def __init__(self, url: str) -> None:
        import procrastinate

        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
        self.first: list[float] = []

        @self.app.task(name="noop", queue="default")
        async def noop() -> None:
            if not self.first:
                self.first.append(time.time())

        self.noop = noop

    async def install(self, _: int) -> None:
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()

    async def fill(self, count: int) -> None:
        async with self.app.open_async():
            for _ in range(count // ENQUEUE):
                await self.noop.batch_defer_async(*[{} for _ in range(ENQUEUE)])

    async def drain(self, _: int) -> None:
        async with self.app.open_async():
            await self.app.run_worker_async(
                wait=False, concurrency=CONCURRENCY, install_signal_handlers=False
            )
        report(first=self.first[0] if self.first else None, last=time.time())


class CeleryPeer:
    """Celery on Redis, a prefork worker as it is delivered: one process for each processor."""

    def __init__(self, url: str) -> None:
        os.environ["CELERY_URL"] = url
        from benchmarks import celeryapp

        self.app, self.noop = celeryapp.app, celeryapp.noop

    async def install(self, _: int) -> None:
        self.app.connection().ensure_connection(max_retries=3)

    async def fill(self, count: int) -> None:
        begin = time.time()
        with self.app.producer_pool.acquire() as producer:
            for _ in range(count):
                self.noop.apply_async(producer=producer)
        report(per_second=count / (time.time() - begin))

    async def drain(self, _: int) -> None:
        await asyncio.to_thread(self._drain)

    def _drain(self) -> None:
        client = self.app.connection().default_channel.client
        queued = client.llen("celery")
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "benchmarks.celeryapp", "worker"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while client.llen("celery") == queued:
            time.sleep(0.002)
        first = time.time()
        while client.llen("celery") or client.hlen("unacked"):
            time.sleep(0.002)
        report(first=first, last=time.time())
        worker.terminate()
        worker.wait()


PEERS = {"pgqueuer": PgQueuerPeer, "procrastinate": ProcrastinatePeer, "celery": CeleryPeer}


def main() -> None:
    name, verb, url, *rest = sys.argv[1:]
    peer = PEERS[name](url)
    uvloop.run(getattr(peer, verb)(int(rest[0]) if rest else 0))


if __name__ == "__main__":
    main()
