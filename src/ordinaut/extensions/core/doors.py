"""``event.publish``, ``task.run`` and ``approval.request``: what only the core can do."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import Field

from ordinaut.plugins.base import Json, Services, ToolContext, ToolError, Tools

Topic = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        description="Words joined by dots, such as order.paid.",
    ),
]


def register(registry: Tools, services: Services | None) -> None:
    """Offer the tools of this module over ``services``."""
    doors = Doors(services)
    registry.register(
        "event.publish",
        doors.publish,
        description="Publish an event; tasks with a matching event schedule fire.",
        examples=[{"topic": "order.paid", "payload": {"id": "${params.order}"}}],
    )
    registry.register(
        "task.run",
        doors.run_task,
        description="Enqueue a run of another task; with wait, return its output.",
        examples=[{"task_id": "${params.task}", "params": {"day": "${now}"}}],
    )
    registry.register(
        "approval.request",
        request_approval,
        description="Suspend the run until someone approves or rejects it.",
        examples=[{"message": "Pay ${steps.sum.total}?", "timeout": "PT24H"}],
    )


class Doors:
    """The tools as methods, so that their schemas come from the hints."""

    def __init__(self, services: Services | None) -> None:
        self._services = services

    async def publish(self, topic: Topic, payload: Any = None, *, context: ToolContext) -> Json:
        await self._open().publish(context, topic=topic, payload=payload)
        return {"topic": topic}

    async def run_task(
        self,
        task_id: uuid.UUID,
        params: dict[str, Any] | None = None,
        wait: bool = False,
        *,
        context: ToolContext,
    ) -> Json:
        return await self._open().run_task(context, task_id=task_id, params=params, wait=wait)

    def _open(self) -> Services:
        if self._services is None:
            raise ToolError("this process has no database to do it with", retryable=False)
        return self._services


async def request_approval(
    message: str = "",
    scope: str | None = None,
    timeout: str | None = None,  # noqa: ASYNC109
) -> Json:
    # A pipeline reads a step that uses this name as wait_for: approval, which holds no worker;
    # it stands here so that the catalogue shows it.
    raise ToolError("an approval suspends a run; it can not be called by itself", retryable=False)
