"""Hears that there is work, or that a run shall stop. Only a hint: polling does without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from ordinaut.store.database import Tx
from ordinaut.telemetry import logger
from ordinaut.workers.line import Line, pause

log = logger(__name__)


class Listener:
    """Owns the connection that listens; it must not lead through a pooler."""

    def __init__(
        self,
        line: Line,
        *,
        actions: Mapping[str, Callable[[], None]],
        heard: Callable[[bool], None],
    ) -> None:
        self._line = line
        self._actions = actions
        self._heard = heard

    async def run(self) -> None:
        """Listen for ever; what happened while nobody listened is looked up at once."""
        failures = 0
        while True:
            try:
                tx = await self._line.open()
                await self._listen(tx)
                failures = 0
                self._heard(True)
                await self._follow(tx)
            except psycopg.Error as error:
                failures += 1
                self._heard(False)
                log.warning("not listening, polling instead", error=str(error))
                await asyncio.sleep(pause(failures))

    async def _listen(self, tx: Tx) -> None:
        for channel, action in self._actions.items():
            await tx.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            action()

    async def _follow(self, tx: Tx) -> None:
        async for notification in tx.notifies():
            self._actions[notification.channel]()
        await self._line.close()
