"""A Chromium that tests drive, by its DevTools protocol over two pipes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ABSENT = "there is no Chromium: install one, or name it in ORDINAUT_CHROMIUM"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which needs rights that containers do not have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0


def chromium() -> str | None:
    """Return the program, if there is one."""
    named = os.environ.get("ORDINAUT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab."""

    def __init__(self, reader: asyncio.StreamReader, write: int) -> None:
        self._reader = reader
        self._write = write
        self._number = 0
        self._session: str | None = None
        self.problems: list[str] = []  # what the browser complained about: policies, scripts

    async def open(self) -> None:
        """Open the tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer
                    result: dict[str, Any] = answer["result"]
                    return result
                self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        entry = event.get("params", {}).get("entry", {})
        if event.get("method") == "Log.entryAdded" and entry["source"] == "security":
            self.problems.append(entry["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(event["params"]["exceptionDetails"]))

    async def go(self, url: str) -> None:
        """Open an address, as if a person had typed it."""
        await self.call("Page.navigate", url=url)

    async def ask(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, whose promise is awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true, across changes of the page; return its value."""
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self.call(
                    "Runtime.evaluate", expression=expression, returnByValue=True
                )
                if value := answer["result"].get("value"):
                    return value
                await asyncio.sleep(0.05)


@asynccontextmanager
async def browsing(program: str) -> AsyncIterator[Page]:
    """Start a Chromium with an empty profile, open a tab, and end it all."""
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads from descriptor 3 and writes to 4.
        command = f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}'
        process = await asyncio.to_thread(
            subprocess.Popen,
            ["bash", "-c", command, "bash", program, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        reader = asyncio.StreamReader(limit=2**26)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_read, "rb")
        )
        page = Page(reader, ours_write)
        try:
            await page.open()
            yield page
        finally:
            transport.close()
            os.close(ours_write)
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
