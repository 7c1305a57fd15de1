"""No-op runs a second and due→start latency, beside other queues in the same sitting.

    ./ordinaut bench queue [--only PART,…] [--peers NAME,…] [--quick] [--json FILE]

Ours are `ordinaut worker` processes as they are delivered: fencing, history, a step record and
four events for each run. Each queue gets a database of its own on one embedded PostgreSQL with
fsync on; Celery gets a Valkey. npm installs Graphile Worker in a folder that is removed at the
end. The queue is filled before the consumers start, and what counts is the time from the start
of the first run to the last commit, so neither filling nor starting processes is in it.
Contenders take turns, and the best of their rounds is shown. MB is the resident memory of the
consumers together, at its peak.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from benchmarks import graphile, pgbench
from benchmarks.contenders import ENQUEUE, RATE, Ours, Peer, make_database

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.model import Lane, NewWork, Rate
from ordinaut.store.database import Database

# What peers take at a time; with 0 they do as delivered, and fewer jobs are enough.
BATCHES = {"pgqueuer": (100, 500, 1000), "graphile": (0, 500, 1000, 2000)}
LISTENING = {"pgqueuer": (10,), "graphile": (0, 500)}  # the same, when latency is measured
KEYS = 100  # concurrency keys that runs share when they have some
SUSTAINED = 5_000  # runs a second
HELD = 2_000  # runs a second beside an idle transaction
PEER_MODULES = {
    "pgqueuer": ("pgqueuer", "asyncpg"),
    "procrastinate": ("procrastinate",),
    "celery": ("celery",),
    "graphile": (),
}

Row = dict[str, Any]
Contender = tuple[str, dict[str, Any], Callable[[], Awaitable[tuple[float, float]]]]


class Bench:
    """What is measured, and the table it is shown in; each public method is a part."""

    def __init__(self, server: EmbeddedPostgres, stack: ExitStack, options: Any) -> None:
        self._server = server
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._stack = stack
        self._quick: bool = options.quick
        self._rounds = 1 if options.quick else 3
        self._count = 60_000 if options.quick else 200_000
        self._few = 2_000 if options.quick else 4_000
        self._ours = Ours(server, self._folder)
        self._peers = [peer for name in options.peers if (peer := self._make(name))]
        self.rows: list[Row] = []

    def _make(self, name: str) -> Peer | None:
        if name == "celery":
            valkey = self._stack.enter_context(EmbeddedValkey(self._folder / "valkey"))
            return Peer(name, valkey.url)
        if name != "graphile":
            return Peer(name, make_database(self._server, name))
        try:
            graphile.install(self._folder / name)
        except subprocess.CalledProcessError as error:
            why = error.stderr.partition("\n")[0]
            print(f"graphile is left out: {why}", file=sys.stderr)
            return None
        return graphile.Graphile(make_database(self._server, name), self._folder / name)

    # --- Parts ------------------------------------------------------------------------------

    async def throughput(self) -> None:
        """One and two processes, beside the peers."""
        for processes in (1, 2):
            contenders = [self._contender(processes=processes)]
            for peer in self._peers:
                contenders += self._peer(peer, processes=processes)
            await self._compare(contenders)

    async def concurrency(self) -> None:
        """Fewer slots than are delivered."""
        await self._compare([self._contender(concurrency=n) for n in (1, 20)])

    async def keyed(self) -> None:
        """What concurrency keys, rate limits and priorities cost."""

        def key(n: int) -> str:
            return f"key {n % KEYS}"

        work = self._ours.work
        makes: dict[str, Callable[[int, datetime], NewWork]] = {
            "plain": lambda _, at: work(at),
            "priorities": lambda n, at: work(at, priority=n % 9 + 1),
            "concurrency keys": lambda n, at: work(at, lane=Lane(key(n), 50)),
            "rates": lambda n, at: work(at, lane=Lane(key(n), 50, Rate(10_000, 1))),
        }
        await self._compare([self._contender(make=make, runs=name) for name, make in makes.items()])

    async def enqueue(self) -> None:
        """One run in a transaction, and many."""
        amounts = {"single": 500, "batches": 10} if self._quick else {"single": 3000, "batches": 50}
        best: dict[str, tuple[float, float]] = {}
        for _ in range(self._rounds):
            found = {"ordinaut": await self._ours.enqueue(**amounts)}
            for peer in self._peers:
                if peer.name in LISTENING:
                    found[peer.name] = await asyncio.to_thread(peer.enqueue, **amounts)
            for name, pair in found.items():
                old = best.get(name, (0.0, 0.0))
                best[name] = (max(old[0], pair[0]), max(old[1], pair[1]))
        for name, (single, many) in best.items():
            self._show(name, single, enqueue="one by one")
            self._show(name, many, enqueue=f"{ENQUEUE} at a time")

    async def latency(self) -> None:
        """From due to start, at 50 a second."""
        count = RATE * (5 if self._quick else 20)
        for _ in range(self._rounds):
            self._show_late("ordinaut", await self._ours.latency(count), rate=RATE)
            for peer in self._peers:
                for batch in LISTENING.get(peer.name, ()):
                    late = await asyncio.to_thread(peer.latency, count, batch=batch)
                    self._show_late(peer.name, late, rate=RATE, batch=batch)

    async def sustained(self) -> None:
        """5,000 runs a second for a minute."""
        found = await self._ours.sustained(rate=SUSTAINED, seconds=10 if self._quick else 60)
        self._show_late("ordinaut", [late for _, late in found], rate=SUSTAINED, runs=len(found))

    async def hold(self) -> None:
        """2,000 runs a second while an idle transaction keeps rows from being cleaned up."""
        seconds = 20 if self._quick else 300
        with psycopg.connect(self._ours.url) as idle:
            idle.execute("SET idle_in_transaction_session_timeout = 0")
            idle.execute("SELECT pg_current_xact_id()")  # no table is locked by that
            found = await self._ours.sustained(rate=HELD, seconds=seconds)
        for words, wanted in (
            ("first 5 s", range(5)),
            (f"last 5 of {seconds} s", range(seconds - 5, seconds)),
        ):
            late = [late for due, late in found if int(due) in wanted]
            self._show_late("ordinaut", late, held=words, rate=HELD)

    async def million(self) -> None:
        """Whether the pace falls while a million runs are done."""
        count, part = (200_000, 50_000) if self._quick else (1_000_000, 100_000)
        first, last = await self._ours.pace_of_many(count, part)
        self._show("ordinaut", first, of=count, runs=f"first {part}")
        self._show("ordinaut", last, of=count, runs=f"last {part}")

    async def ceiling(self) -> None:
        """Our statements without our worker: pgbench."""
        if pgbench.find() is None:
            print("pgbench is not in the wheel: left out")
            return
        async with Database(self._ours.url, size=1) as db:
            for batch in pgbench.BATCHES:
                found: list[tuple[float, int]] = []
                for clients in pgbench.CLIENTS:
                    await self._ours.fill(db, self._count)
                    limits = {"clients": clients, "batch": batch, "count": self._count}
                    once = pgbench.run(self._ours.url, folder=self._folder, **limits)
                    found.append((once, clients))
                best, clients = max(found)
                self._show("pgbench", best, clients=clients, batch=batch)

    # --- How --------------------------------------------------------------------------------

    async def _compare(self, contenders: Sequence[Contender]) -> None:
        """Let contenders run by turns, so that all meet the same machine; show their best."""
        best = [(0.0, 0.0)] * len(contenders)
        for _ in range(self._rounds):
            for place, (_, _, once) in enumerate(contenders):
                best[place] = max(best[place], await once())
        for (name, how, _), (rate, megabytes) in zip(contenders, best, strict=True):
            self._show(name, rate, mb=round(megabytes), **how)

    def _contender(
        self,
        *,
        processes: int = 1,
        concurrency: int = 100,
        make: Callable[[int, datetime], NewWork] | None = None,
        **said: Any,
    ) -> Contender:
        how = {"processes": processes, "concurrency": concurrency}
        once = partial(self._ours.throughput, count=self._count, make=make, **how)
        return "ordinaut", how | said, once

    def _peer(self, peer: Peer, *, processes: int) -> list[Contender]:
        found: list[Contender] = []
        for batch in BATCHES.get(peer.name, (0,)):
            how = {"processes": processes, "batch": batch}
            count = self._count if batch else self._few
            found.append((peer.name, how, partial(peer.throughput, count=count, **how)))
        return found

    def _show(self, name: str, per_second: float, **how: Any) -> None:
        self.rows.append({"name": name, **how, "per_second": round(per_second)})
        said = ", ".join(f"{key} {value}" for key, value in how.items())
        print(f"{name:14} {said:50} {per_second:10,.0f} /s", flush=True)

    def _show_late(self, name: str, seconds: list[float], **how: Any) -> None:
        cuts = statistics.quantiles(seconds, n=100)
        found = {"p50_ms": round(cuts[49] * 1e3, 2), "p99_ms": round(cuts[98] * 1e3, 2)}
        self.rows.append({"name": name, **how, **found})
        said = ", ".join(f"{key} {value}" for key, value in how.items())
        late = f"p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms"
        print(f"{name:14} {said:50} due to start {late}", flush=True)


PARTS = [name for name, part in vars(Bench).items() if name[0] != "_" and callable(part)]


def parts_of(text: str) -> list[str]:
    """Return the parts that are named, in their order."""
    wanted = set(text.split(","))
    if unknown := wanted - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(PARTS)}")
    return [name for name in PARTS if name in wanted]


def peers_of(text: str) -> list[str]:
    """Return the peers that are wanted and installed."""
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in PEER_MODULES:
            raise argparse.ArgumentTypeError(f"{name}: known are {', '.join(PEER_MODULES)}")
    missing = {
        name: "pip install -e '.[bench]'"
        for name in wanted
        if not all(map(importlib.util.find_spec, PEER_MODULES[name]))
    }
    if "graphile" in wanted and not graphile.is_possible():
        missing["graphile"] = "node and npm are not both on PATH"
    for name, why in missing.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    return [name for name in wanted if name not in missing]


async def measure(bench: Bench, parts: Sequence[str]) -> None:
    """Do parts one after the other."""
    for part in parts:
        await getattr(bench, part)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=parts_of, default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--peers", type=peers_of, default=",".join(PEER_MODULES))
    parser.add_argument("--quick", action="store_true", help="fewer runs and one round")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(folder / "data"))
        bench = Bench(server, stack, options)
        uvloop.run(measure(bench, options.only))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=2))


if __name__ == "__main__":
    main()
