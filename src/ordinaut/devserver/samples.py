"""The tasks that ``ordinaut dev`` loads, so that a newcomer sees something real at once."""

from __future__ import annotations

from typing import Any

import httpx2

from ordinaut.errors import Unavailable

LABEL = "sample"  # carries the name of the sample


def definitions(url: str) -> dict[str, dict[str, Any]]:
    """Return the samples by name; ``url`` is the API's own address."""
    return {
        "heartbeat": {
            "title": "Sample: ask the API for its health every 10 seconds",
            "schedule_kind": "interval",
            "schedule_expr": "PT10S",
            "payload": {
                "params": {"url": f"{url}/health"},
                "pipeline": [
                    {"id": "ask", "uses": "http.request", "with": {"url": "${params.url}"}},
                    {
                        "id": "judge",
                        "uses": "core.transform",
                        "with": {
                            "value": {
                                "status": "${steps.ask.status}",
                                "milliseconds": "${steps.ask.elapsed_ms}",
                            },
                        },
                    },
                    {
                        "id": "note",
                        "uses": "core.log",
                        "with": {
                            "message": "health answered ${steps.judge.status} "
                            "in ${steps.judge.milliseconds} ms",
                        },
                    },
                ],
                "output": "${steps.judge}",
            },
        },
        "five-minutes": {
            "title": "Sample: a line in the log every five minutes, by cron",
            "schedule_kind": "cron",
            "schedule_expr": "*/5 * * * *",
            "payload": {
                "pipeline": [
                    {
                        "id": "note",
                        "uses": "core.log",
                        "with": {"message": "it is ${now}"},
                    }
                ]
            },
        },
        "monday-morning": {
            "title": "Sample: a line in the log on working days at half past eight, by RRULE",
            "schedule_kind": "rrule",
            "schedule_expr": "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;BYHOUR=8;BYMINUTE=30;BYSECOND=0",
            "payload": {
                "pipeline": [
                    {
                        "id": "note",
                        "uses": "core.log",
                        "with": {"message": "good morning; the working day ends ${now+8h}"},
                    }
                ]
            },
        },
    }


async def load(client: httpx2.AsyncClient) -> None:
    """Create the samples that are missing, and bring the others up to date."""
    known = await _known(client)
    for name, wanted in definitions(str(client.base_url).rstrip("/")).items():
        body = {**wanted, "labels": {LABEL: name}}
        task = known.get(name)
        if task is None:
            answer = await client.post("/tasks", json=body)
        elif task["payload"] != body["payload"]:
            answer = await client.patch(f"/tasks/{task['id']}", json={"payload": body["payload"]})
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
