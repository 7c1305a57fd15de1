"""Answers that go on (server-sent events), as long as the credential that opened them is good."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from fastapi import Request
from sse_starlette import EventSourceResponse

from ordinaut.api.dependencies import identify
from ordinaut.errors import TooManyRequests, Unauthenticated
from ordinaut.model import Agent

PING_SECONDS: Final = 15


def stream(
    request: Request, agent: Agent, source: AsyncGenerator[dict[str, str]]
) -> EventSourceResponse:
    """Send what ``source`` yields; nothing more once ``agent`` is not who may see it any more."""
    return EventSourceResponse(_while_good(request, agent, source), ping=PING_SECONDS)


async def _while_good(
    request: Request, agent: Agent, source: AsyncGenerator[dict[str, str]]
) -> AsyncIterator[dict[str, str]]:
    async with aclosing(source):
        async for event in source:
            try:
                # Other scopes are another rule: who reconnects gets what it lets through.
                if await identify(request) != agent:
                    return
            except (Unauthenticated, TooManyRequests):
                return
            yield event
