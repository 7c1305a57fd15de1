"""The transport on one server, on a Cluster and behind Sentinel."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from ordinaut.bus import EVENTS, Bus, Entry, Message, extension_stream
from ordinaut.devserver.ports import free_port
from ordinaut.devserver.valkey import find_server
from ordinaut.errors import Unavailable

GROUP = "readers"


@contextmanager
def valkey(folder: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Valkey in a role of its own, without persistence."""
    folder.mkdir()
    command = [find_server(), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "--dir", folder, "--save", ""], stdout=subprocess.DEVNULL
    ) as server:
        try:
            wait_for(port)
            yield server
        finally:
            server.kill()


def wait_for(port: int, *, command: str = "PING", until: str = "True") -> None:
    deadline = time.monotonic() + 15
    with redis.Redis(port=port, decode_responses=True) as client:
        while True:
            try:
                if until in str(client.execute_command(*command.split())):
                    return
            except redis.ConnectionError:
                pass
            assert time.monotonic() < deadline, f"no {until!r} from {command}"
            time.sleep(0.02)


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    async with Bus(redis_url) as connected:
        yield connected


def ids(messages: list[Message]) -> list[str]:
    return [message.fields["id"] for message in messages]


async def fill(bus: Bus, *numbers: int, stream: str = EVENTS) -> None:
    entries = [Entry(stream, {"id": str(number)}) for number in numbers]
    assert await bus.append(entries, expected=await bus.marker(), marker=f"m{numbers}")


async def test_a_group_gives_each_message_to_one_consumer(bus: Bus):
    await bus.ensure_group(EVENTS, GROUP)
    await bus.ensure_group(EVENTS, GROUP)
    await fill(bus, 1, 2, 3)

    first = await bus.read(EVENTS, GROUP, "a", block=0.1, limit=2)
    second = await bus.read(EVENTS, GROUP, "b", block=0.1, limit=9)

    assert (ids(first), ids(second)) == (["1", "2"], ["3"])
    assert await bus.read(EVENTS, GROUP, "a", block=0.01, limit=9) == []


async def test_what_a_dead_consumer_did_not_acknowledge_is_claimed(bus: Bus):
    await bus.ensure_group(EVENTS, GROUP)
    await fill(bus, 1, 2)
    held = await bus.read(EVENTS, GROUP, "dead", block=0.1, limit=9)
    await bus.acknowledge(EVENTS, GROUP, [held[0].id])
    await asyncio.sleep(0.02)  # not to synchronise: the idle time that is asked for

    claimed = await bus.claim(EVENTS, GROUP, "alive", idle=0.01, limit=9)

    assert [(m.fields["id"], m.deliveries) for m in claimed] == [("2", 2)]
    await bus.acknowledge(EVENTS, GROUP, [m.id for m in claimed])
    assert await bus.claim(EVENTS, GROUP, "alive", idle=0.001, limit=9) == []


async def test_a_group_that_redis_lost_begins_at_the_start_of_the_stream(bus: Bus):
    await bus.ensure_group(EVENTS, GROUP)
    await bus._client.flushall()
    await fill(bus, 1)

    assert await bus.read(EVENTS, GROUP, "a", block=0.01, limit=9) == []
    assert ids(await bus.read(EVENTS, GROUP, "a", block=0.1, limit=9)) == ["1"]


async def test_tail_waits_for_what_comes_next(bus: Bus):
    await fill(bus, 1)
    waiting = asyncio.create_task(bus.tail(EVENTS, after="$", block=5, limit=9))
    await eventually(lambda: is_blocked(bus))

    await fill(bus, 2)
    assert ids(await waiting) == ["2"]


async def test_on_a_cluster_entries_and_marker_go_together(tmp_path: Path):
    port = free_port()
    while port > 55_000:  # the cluster's own port is 10,000 above
        port = free_port()
    with valkey(tmp_path / "node", port, "--cluster-enabled", "yes"):
        with redis.Redis(port=port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(port, command="CLUSTER INFO", until="cluster_state:ok")
        async with Bus(f"redis+cluster://127.0.0.1:{port}") as bus:
            mine = extension_stream("demo", "opened")
            both = [Entry(EVENTS, {"id": "1"}), Entry(mine, {"id": "1"})]
            assert await bus.append(both, expected=None, marker="one")
            assert not await bus.append(both, expected=None, marker="two")
            assert await bus.marker() == "one"
            assert ids(await bus.tail(EVENTS, after="0", block=0.1, limit=9)) == ["1"]
            await bus.ensure_group(mine, GROUP, start="0")
            assert ids(await bus.read(mine, GROUP, "a", block=0.1, limit=1)) == ["1"]


async def test_behind_sentinel_the_new_master_is_found(tmp_path: Path):
    master, replica, sentinel = free_port(), free_port(), free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main 300\n"
    )
    with ExitStack() as stack:
        first = stack.enter_context(valkey(tmp_path / "master", master))
        stack.enter_context(
            valkey(tmp_path / "replica", replica, "--replicaof", "127.0.0.1", str(master))
        )
        wait_for(replica, command="INFO replication", until="'master_link_status': 'up'")
        watcher = str(tmp_path / "sentinel.conf")
        stack.enter_context(valkey(tmp_path / "sentinel", sentinel, watcher, "--sentinel"))
        wait_for(sentinel, command="SENTINEL REPLICAS main", until=str(replica))
        async with Bus(f"redis+sentinel://127.0.0.1:{sentinel}/main") as bus:
            await fill(bus, 1)
            first.kill()
            await eventually(lambda: appended(bus, 2))
            assert "2" in ids(await bus.tail(EVENTS, after="0", block=0.1, limit=9))


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await check():  # noqa: ASYNC110  a server decides when
            await asyncio.sleep(0.02)


async def is_blocked(bus: Bus) -> bool:
    return int((await bus._client.info("clients"))["blocked_clients"]) > 0


async def appended(bus: Bus, number: int) -> bool:
    try:
        await fill(bus, number)
    except Unavailable:
        return False
    return True
