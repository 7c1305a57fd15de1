"""Events of extensions over the real outbox, relay and Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from extending import extension, settings, shown, write
from ordinaut import bus
from ordinaut.bus import Bus, Entry
from ordinaut.clock import SystemClock
from ordinaut.plugins import loader
from ordinaut.plugins.backend import Backend, backend_of
from ordinaut.plugins.base import Message
from ordinaut.plugins.events import Consumer, Pace, Subscription
from ordinaut.plugins.host import ExtensionHost
from ordinaut.scheduler.spine import Relay
from ordinaut.store.database import Database

STREAM = bus.extension_stream("demo", "told")
QUICK = Pace(block=0.05, first_pause=0.001, claim_idle=0.001, claim_every=0.0, redis_away=0.01)

TALKER = """
async def tell(text: str): await context["events"].publish("told", {"text": text})
tool_registry.register("tell", tell)
"""
LISTENER = """
self.heard = asyncio.Queue()
@context["events"].subscribe("talker:told", group="ears")
async def hear(message): self.heard.put_nowait((message.name, message.data))
async def heard(): return await self.heard.get()
tool_registry.register("heard", heard)
"""


@pytest.fixture
async def transport(redis_url: str) -> AsyncIterator[Bus]:
    async with Bus(redis_url) as one:
        yield one


def consumer(
    transport: Bus, handler: Callable[[Message], Awaitable[None]], pace: Pace = QUICK
) -> Consumer:
    return Consumer(Subscription(STREAM, "demo:default", handler), transport, pace)


async def become_idle() -> None:
    """Let the server see that nobody acknowledged: its clock can not be moved."""
    await asyncio.sleep(2 * QUICK.claim_idle)


async def put(transport: Bus, n: int) -> None:
    fields = {"id": str(n), "type": "ext.demo.told", "data": json.dumps({"n": n})}
    await transport.put(Entry(STREAM, fields))


async def test_an_event_goes_from_one_extension_to_another(
    tmp_path: Path, db: Database, redis_url: str
) -> None:
    talker = extension("talker", wants="TOOLS EVENTS_PUB", setup=TALKER)
    write(tmp_path, "talker", talker, grants=["TOOLS", "EVENTS_PUB"])
    listener = extension("listener", wants="TOOLS EVENTS_SUB", setup=LISTENER)
    write(tmp_path, "listener", listener, grants=["TOOLS", "EVENTS_SUB"])
    found = loader.discover([tmp_path], built_in=False, installed=False)
    made = settings(redis_url=redis_url)
    host = ExtensionHost(made, db=db, found=found, backend=quick(backend_of(made, db)))
    async with host, Bus(redis_url) as transport, asyncio.timeout(20):
        assert shown(host, "talker").state == shown(host, "listener").state == "started"
        await host.tools.get("ext.talker.tell").fn(text="salut")
        relay = Relay(db, transport, SystemClock())
        while await relay.run_once():
            pass
        assert await host.tools.get("ext.listener.heard").fn() == ("told", {"text": "salut"})


def quick(backend: Backend) -> Backend:
    return Backend(backend.publish, backend.transport, pace=QUICK)


async def test_what_a_dead_consumer_held_is_handled_by_the_next(transport: Bus) -> None:
    seen: list[tuple[Any, int]] = []

    async def handler(message: Message) -> None:
        seen.append((message.data, message.attempt))

    await transport.ensure_group(STREAM, "demo:default", start="0")
    await put(transport, 1)
    held = await transport.read(STREAM, "demo:default", "the dead", block=1, limit=10)
    assert len(held) == 1
    await become_idle()
    await consumer(transport, handler).run_once()
    assert seen == [({"n": 1}, 2)]
    await consumer(transport, handler).run_once()
    assert len(seen) == 1


async def test_a_message_that_always_fails_ends_as_a_dead_letter(
    transport: Bus, redis_url: str
) -> None:
    attempts: list[int] = []

    async def handler(message: Message) -> None:
        attempts.append(message.attempt)
        if message.data == {"n": 1}:
            raise RuntimeError("poison")

    await transport.ensure_group(STREAM, "demo:default", start="0")
    await put(transport, 1)
    await put(transport, 2)
    one = consumer(transport, handler)
    await one.run_once()
    assert attempts == [1, 2, 3, 4, 5, 1]
    (dead,) = await transport.tail(f"{STREAM}:dead", after="0", block=1, limit=10)
    assert dead.fields["error"] == "RuntimeError: poison"
    assert json.loads(dead.fields["data"]) == {"n": 1}
    assert dead.fields["group"] == "demo:default"
    assert await transport.claim(STREAM, "demo:default", "x", idle=0, limit=10) == []


async def test_a_message_that_kills_its_consumers_is_not_handled_again(transport: Bus) -> None:
    async def handler(message: Message) -> None:
        pytest.fail("it would kill this one too")

    await transport.ensure_group(STREAM, "demo:default", start="0")
    await put(transport, 1)
    await transport.read(STREAM, "demo:default", "dead 1", block=1, limit=10)
    for n in range(2, 6):
        await become_idle()
        await transport.claim(STREAM, "demo:default", f"dead {n}", idle=0.001, limit=10)
    await become_idle()
    await consumer(transport, handler).run_once()
    (dead,) = await transport.tail(f"{STREAM}:dead", after="0", block=1, limit=10)
    assert dead.fields["error"] == "its consumers died 5 times"


async def test_a_handler_that_takes_too_long_has_failed(transport: Bus) -> None:
    async def handler(message: Message) -> None:
        await asyncio.Event().wait()

    pace = Pace(block=0.05, first_pause=0.001, handler=0.01, tries=2)
    await transport.ensure_group(STREAM, "demo:default", start="0")
    await put(transport, 1)
    await consumer(transport, handler, pace).run_once()
    (dead,) = await transport.tail(f"{STREAM}:dead", after="0", block=1, limit=10)
    assert dead.fields["error"].startswith("TimeoutError")


async def test_a_message_that_can_not_be_read_is_a_dead_letter(transport: Bus) -> None:
    async def handler(message: Message) -> None:
        pytest.fail("it has no data")

    await transport.ensure_group(STREAM, "demo:default", start="0")
    await transport.put(Entry(STREAM, {"id": "1", "type": "ext.demo.told", "data": "{"}))
    await consumer(transport, handler).run_once()
    assert len(await transport.tail(f"{STREAM}:dead", after="0", block=1, limit=10)) == 1


async def test_a_consumer_waits_for_redis_and_leaves_no_trace_when_it_ends(
    transport: Bus, redis_url: str
) -> None:
    heard = asyncio.Event()

    async def handler(message: Message) -> None:
        heard.set()

    one = consumer(transport, handler)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(10):
        await put(transport, 1)
        await heard.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    client: Any = transport._client
    assert await client.xinfo_consumers(STREAM, "demo:default") == []


async def test_a_consumer_survives_a_redis_that_is_not_there() -> None:
    async def handler(message: Message) -> None:
        pytest.fail("nothing can come")

    async with Bus("redis://127.0.0.1:1") as nowhere:
        running = asyncio.create_task(consumer(nowhere, handler).run())
        done, _ = await asyncio.wait([running], timeout=0.2)
        assert not done
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
