"""Workers that are killed at every boundary of a pipeline, as an outside witness sees it.

The witness is an HTTP server that counts the calls of each idempotency key. Ten runs of a
pipeline of ten steps are brought to ten different boundaries, and their worker is killed there
with SIGKILL; the next worker goes on with all of them.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import extending
from ordinaut.model import Json
from ordinaut.store import queue, waits
from ordinaut.store.database import Database
from ordinaut.store.waits import Answer
from queueing import enqueue, later, make_task, rows, work
from working import Process, process, until, until_ended

pytestmark = pytest.mark.chaos

STEPS = 10

# The connections on which a worker waits to write down what it did.
BEFORE_A_LOCK = """
    FROM pg_stat_activity WHERE wait_event_type = 'Lock'
     AND datname = current_database() AND application_name = 'ordinaut settler'
"""

ONCE = """
    import urllib.request
    from ordinaut.plugins.base import *
    class Once(Extension):
        def info(self): return ExtensionInfo("witness", "Witness", "1.0.0")
        def requested_capabilities(self): return {Capability.TOOLS}
        def setup(self, *, tool_registry, **_):
            tool_registry.register("call", self.call, effect="at_most_once")
        def call(self, url: str, context: ToolContext):
            key = {"Idempotency-Key": context.idempotency_key}
            with urllib.request.urlopen(urllib.request.Request(url, b"{}", key)) as answer:
                return answer.read().decode()
    def get_extension(): return Once()
"""


class Witness(ThreadingHTTPServer):
    """Counts calls by key, and keeps the first call of chosen keys waiting for its answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: Counter[str] = Counter()
        self.kept: set[str] = set()
        self.in_flight: set[str] = set()
        self.answer = threading.Event()
        self.at_call: tuple[int, Callable[[], None]] = (0, lambda: None)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def keep(self, *keys: str) -> None:
        """Let the first calls with these keys wait until ``answer`` is set."""
        self.kept, self.in_flight = set(keys), set()
        self.answer.clear()

    def called(self, key: str) -> None:
        with self.lock:
            self.calls[key] += 1
            first = self.calls[key] == 1
            count, act = self.at_call
            if self.calls.total() == count:
                act()
        if first and key in self.kept:
            self.in_flight.add(key)
            self.answer.wait(60)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that was killed does not take its answer."""


class _Handler(BaseHTTPRequestHandler):
    server: Witness

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.called(self.headers["Idempotency-Key"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def witness() -> Iterator[Witness]:
    with Witness() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.answer.set()
        server.shutdown()
        thread.join()


class Cluster:
    """The runs of a test and its workers, of which one lives at a time."""

    def __init__(self, db: Database, url: str, folder: Path, **options: Json) -> None:
        self.db = db
        self._url, self._folder, self._options = url, folder, options
        self._started = 0

    @contextmanager
    def worker(self) -> Iterator[Process]:
        self._started += 1
        log = self._folder / f"{self._started}.log"
        with process(self._url, log, lease_seconds=30, **self._options) as started:
            yield started

    async def start(self, uses: str, arguments: Json, count: int = STEPS) -> list[UUID]:
        """Queue runs of a pipeline of ten calls."""
        steps = [{"id": f"s{k}", "uses": uses, "with": arguments} for k in range(1, STEPS + 1)]
        task_id = await make_task(self.db, payload={"pipeline": steps})
        items = [work(task_id) for _ in range(count)]
        await enqueue(self.db, *items)
        return [item.id for item in items]

    async def kill(self, worker: Process) -> set[str]:
        """Kill the worker, free its runs, and return the keys of the steps it had completed."""
        worker.send(signal.SIGKILL)
        worker.wait()
        return await self.bury()

    async def bury(self) -> set[str]:
        async def gone() -> bool:
            found = await rows(
                self.db,
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'ordinaut %%'",
            )
            return not found

        await until(gone, what="nothing of the dead worker writes any more")
        async with self.db.connection() as tx:
            await queue.expire(tx, limit=1000, now=later(3600))
        found = await rows(
            self.db, "SELECT run_id || ':' || step_id FROM step_run WHERE status = 'succeeded'"
        )
        return {key for (key,) in found}


@pytest.fixture
def cluster(db: Database, database_url: str, tmp_path: Path) -> Cluster:
    folder = tmp_path / "extensions"
    extending.write(folder, "witness", ONCE, module="extension", description="", grants=["TOOLS"])
    return Cluster(
        db, database_url, tmp_path, http_allow_private="true", ext_paths=folder / "witness"
    )


def key(run_id: UUID, step: int) -> str:
    return f"{run_id}:s{step}"


def boundaries(runs: list[UUID]) -> list[str]:
    """Return the calls at which the runs stand: the first at step 1, the last at step 10."""
    return [key(run_id, step) for step, run_id in enumerate(runs, 1)]


def every(runs: list[UUID]) -> list[str]:
    return [key(run_id, step) for run_id in runs for step in range(1, STEPS + 1)]


async def until_in_flight(witness: Witness) -> None:
    async def there() -> bool:
        return witness.in_flight == witness.kept

    await until(there, what="each run is at its own step")


async def kill_before_the_checkpoint(
    cluster: Cluster, worker: Process, witness: Witness, runs: list[UUID]
) -> set[str]:
    """Answer the calls in flight and kill the worker before it can write that down."""
    async with cluster.db.transaction() as tx:
        await waits.hold(tx, runs)
        witness.answer.set()
        await until(lambda: _blocked(cluster.db), what="a checkpoint stands before the lock")
        worker.send(signal.SIGKILL)
        worker.wait()
        await rows(cluster.db, f"SELECT pg_terminate_backend(pid) {BEFORE_A_LOCK}")
    return await cluster.bury()


async def test_whatever_dies_where_completed_steps_are_called_once(
    cluster: Cluster, witness: Witness
) -> None:
    http = {"method": "POST", "url": witness.url, "json": {}}

    # Within the calls: what was in flight is called again, and nothing else.
    in_calls = await cluster.start("http.request", http)
    witness.keep(*boundaries(in_calls))
    with cluster.worker() as worker:
        await until_in_flight(witness)
        completed = await cluster.kill(worker)
    witness.answer.set()
    assert len(completed) == sum(range(STEPS))
    assert completed.isdisjoint(boundaries(in_calls))

    # Between the answer and the checkpoint, which stands before a lock.
    unwritten = await cluster.start("http.request", http)
    witness.keep(*boundaries(unwritten))
    with cluster.worker() as worker:
        await until_ended(cluster.db, STEPS)
        await until_in_flight(witness)
        completed |= await kill_before_the_checkpoint(cluster, worker, witness, unwritten)
    assert completed.isdisjoint(boundaries(unwritten))

    # Anywhere: at the 25th, 50th and 75th call of ten runs that are under way side by side.
    with cluster.worker() as worker:
        await until_ended(cluster.db, 2 * STEPS)
        before = witness.calls.total()
        witness.at_call = (before + 25, partial(worker.send, signal.SIGKILL))
        anywhere = await cluster.start("http.request", http)
        worker.wait()
        counted = {name: witness.calls[name] for name in await cluster.bury()}
    for nth in (50, 75):
        with cluster.worker() as worker:
            witness.at_call = (before + nth, partial(worker.send, signal.SIGKILL))
            worker.wait()
            counted = {name: witness.calls[name] for name in await cluster.bury()} | counted

    with cluster.worker():
        await until_ended(cluster.db, 3 * STEPS)
    for name in every(in_calls + unwritten):
        again = name in boundaries(in_calls) + boundaries(unwritten)
        assert witness.calls[name] == (2 if again else 1), name
    assert all(witness.calls[name] == calls for name, calls in counted.items())
    # A death repeats what was in flight: of each of the ten runs no more than one call.
    assert all(1 <= witness.calls[name] <= 4 for name in every(anywhere))
    assert sum(witness.calls[name] for name in every(anywhere)) <= STEPS * STEPS + 3 * STEPS
    assert witness.calls.keys() == set(every(in_calls + unwritten + anywhere))
    ended = await rows(cluster.db, "SELECT DISTINCT status FROM task_run")
    assert ended == [("succeeded",)]


async def _blocked(db: Database) -> bool:
    return bool(await rows(db, f"SELECT {BEFORE_A_LOCK}"))


async def test_a_call_that_must_not_be_repeated_never_is(
    cluster: Cluster, witness: Witness
) -> None:
    # Within the calls.
    in_calls = await cluster.start("ext.witness.call", {"url": witness.url})
    witness.keep(*boundaries(in_calls))
    with cluster.worker() as worker:
        await until_in_flight(witness)
        await cluster.kill(worker)
    witness.answer.set()
    await people_say_that_it_happened(cluster, in_calls, ended=STEPS)

    # Between the answer and the checkpoint, which stands before a lock.
    unwritten = await cluster.start("ext.witness.call", {"url": witness.url})
    witness.keep(*boundaries(unwritten))
    with cluster.worker() as worker:
        await until_in_flight(witness)
        await kill_before_the_checkpoint(cluster, worker, witness, unwritten)
    await people_say_that_it_happened(cluster, unwritten, ended=2 * STEPS)
    assert witness.calls == Counter(every(in_calls + unwritten))


async def people_say_that_it_happened(cluster: Cluster, runs: list[UUID], *, ended: int) -> None:
    """Let a worker go on: each of the runs asks about the call at its boundary."""
    with cluster.worker():

        async def all_ask() -> bool:
            found = await rows(cluster.db, "SELECT id FROM due_work WHERE state = 'waiting'")
            return len(found) == len(runs)

        await until(all_ask, what="each run waits for a person")
        asked = await rows(
            cluster.db,
            "SELECT run_id || ':' || step_id FROM step_run"
            " WHERE status = 'waiting' AND error ->> 'code' = 'effect_unknown'",
        )
        assert {name for (name,) in asked} == set(boundaries(runs))
        async with cluster.db.transaction() as tx:
            await waits.hold(tx, runs)
            it_happened = [
                Answer(run_id=run_id, step_id=f"s{step}") for step, run_id in enumerate(runs, 1)
            ]
            await waits.answer(tx, it_happened, reason="approved")
            await queue.hint(tx)
        await until_ended(cluster.db, ended)
