"""The demonstration of events, through the same facade that strangers have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from ordinaut.testing import ExtensionKit, extension_kit


@pytest.fixture
async def kit() -> AsyncIterator[ExtensionKit]:
    async with extension_kit("events_demo") as one:
        yield one


async def test_what_is_published_comes_back(kit: ExtensionKit) -> None:
    answer = await kit.client.post("/publish", json={"payload": {"text": "salut"}})
    assert answer.status_code == 202
    assert [event.topic for event in kit.published] == ["ext.events_demo.message"]
    await kit.deliver("message", {"text": "again"})
    received = (await kit.client.get("/messages")).json()
    assert [one["data"] for one in received] == [{"text": "salut"}, {"text": "again"}]


async def test_a_message_that_fails_is_shown_as_a_dead_letter(kit: ExtensionKit) -> None:
    await kit.deliver("message", {"fail": True})
    assert (await kit.client.get("/messages")).json() == []
    (dead,) = (await kit.client.get("/dead")).json()
    assert dead["data"] == {"fail": True}
    (subscription,) = kit.description.subscriptions
    assert (subscription["handled"], subscription["dead"]) == (0, 1)
    assert "asked for a failure" in str(subscription["last_error"])


async def test_a_body_that_is_not_a_publication_is_refused(kit: ExtensionKit) -> None:
    assert (await kit.client.post("/publish", json={"text": "x"})).status_code == 422


async def test_the_page_and_its_files_are_served(kit: ExtensionKit) -> None:
    page = await kit.client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for name in ("demo.js", "demo.css"):
        assert f"/ext/events_demo/static/{name}" in page.text
        assert (await kit.client.get(f"/static/{name}")).status_code == 200


async def test_the_stream_passes_messages_on_as_they_come(kit: ExtensionKit) -> None:
    parts: asyncio.Queue[bytes] = asyncio.Queue()
    gone = asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start" or message.get("body"):
            parts.put_nowait(bytes(message.get("body", b"")))  # type: ignore[arg-type]

    scope = {"type": "http", "method": "GET", "path": "/events_demo/stream", "headers": []}
    streaming = asyncio.create_task(
        kit.host.gateway({**scope, "query_string": b"", "http_version": "1.1"}, receive, send)
    )
    async with asyncio.timeout(10):
        await parts.get()
        await kit.deliver("message", {"n": 1})
        lines = (await parts.get()).decode().splitlines()
        gone.set()
        await streaming
    data = next(line.removeprefix("data: ") for line in lines if line.startswith("data:"))
    assert json.loads(data)["data"] == {"n": 1}
