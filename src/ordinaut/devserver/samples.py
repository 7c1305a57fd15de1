"""The tasks that ``ordinaut dev`` loads, so that a newcomer sees something real at once.

They stand in ``samples.json`` as anybody would send them to the API.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import httpx2

from ordinaut.errors import Unavailable

LABEL = "sample"  # carries the name of the sample


def definitions(url: str) -> dict[str, dict[str, Any]]:
    """Return the samples by name; ``url`` is the API's own address."""
    text = resources.files("ordinaut.devserver").joinpath("samples.json").read_text()
    samples: dict[str, dict[str, Any]] = json.loads(text)
    for name, sample in samples.items():
        sample["labels"] = {LABEL: name}
        if "params" in sample["payload"]:
            sample["payload"]["params"]["url"] = url
    return samples


async def load(client: httpx2.AsyncClient) -> None:
    """Create the samples that are missing, and bring the others up to date."""
    known = await _known(client)
    for name, wanted in definitions(str(client.base_url).rstrip("/")).items():
        task = known.get(name)
        if task is None:
            answer = await client.post("/tasks", json=wanted)
            if answer.is_success:  # so that there is something to see at once
                answer = await client.post(f"/tasks/{answer.json()['id']}/run_now")
        elif task["payload"] != wanted["payload"]:
            changed = {"payload": wanted["payload"]}
            answer = await client.patch(f"/tasks/{task['id']}", json=changed)
        else:
            continue
        if answer.is_error:
            raise Unavailable(f"the API refused the sample {name}: {answer.text}")


async def _known(client: httpx2.AsyncClient) -> dict[str, dict[str, Any]]:
    """Return the samples that exist by name."""
    found: dict[str, dict[str, Any]] = {}
    query: dict[str, Any] = {"limit": 100}
    while True:
        answer = await client.get("/tasks", params=query)
        answer.raise_for_status()
        page = answer.json()
        found |= {t["labels"][LABEL]: t for t in page["items"] if LABEL in t["labels"]}
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]
