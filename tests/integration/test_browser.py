"""A person with a browser: signs in, uses the page of an extension, signs out."""

from __future__ import annotations

import asyncio
import json

import pytest

from browsing import ABSENT, browsing, chromium
from calling import make_agent, rows, served, settings_of
from ordinaut.store.database import Database

PROGRAM = chromium()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason=ABSENT),
]


async def test_a_person_signs_in_opens_a_page_and_signs_out(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = settings_of(database_url, redis_url)
    _, key = await make_agent(db, settings, "ext:events_demo:routes", name="ana")
    assert PROGRAM is not None
    async with served(settings, key) as server, browsing(PROGRAM) as page, asyncio.timeout(120):
        await page.go(f"{server.url}/ext/events_demo/")
        await page.until("location.pathname == '/signin' && document.readyState == 'complete'")
        assert await page.ask("document.activeElement.id") == "key"

        await page.ask("key.value = 'ord_no'; document.querySelector('#in button').click()")
        assert "not valid" in await page.until("document.getElementById('said').textContent")
        await page.ask(
            f"key.value = {json.dumps(key)}; document.querySelector('#in button').click()"
        )
        await page.until("location.pathname == '/ext/events_demo/' && document.title")
        assert await page.ask("document.querySelector('h1').textContent") == "Events demo"
        assert await page.ask("document.cookie") == ""

        await page.until("document.readyState == 'complete'")
        await page.ask("document.querySelector('#publish button').click()")
        assert await page.until("document.getElementById('answer').textContent") == "202 Accepted"
        told = "SELECT data FROM event WHERE topic = 'ext.events_demo.message'"
        assert await rows(db, told) == [({"text": "hello"},)]

        await page.go(f"{server.url}/signin")
        assert await page.until("document.getElementById('name').textContent") == "ana"
        await page.ask("document.querySelector('#out button').click()")
        await page.until("!document.getElementById('in').hidden")
        await page.go(f"{server.url}/ext/events_demo/")
        await page.until("location.pathname == '/signin'")
        assert page.problems == []
