"""Where a worker gets the values of secrets: at call time, kept for a moment and nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import psycopg

from ordinaut.engine.executor import no_secrets
from ordinaut.engine.outcome import SecretSource
from ordinaut.errors import StepError, Undecipherable
from ordinaut.store import secrets
from ordinaut.store.secrets import Keyring
from ordinaut.workers.line import Line

KEPT_SECONDS = 2.0  # a burst of runs asks once; a change is seen after this at the latest
CAPACITY = 1_000

Key = tuple[UUID, frozenset[str]]


class Vault:
    """Resolves names to values over a connection that is opened when there is a first one."""

    def __init__(self, line: Line, keys: Keyring) -> None:
        self._line = line
        self._keys = keys
        self._asking = asyncio.Lock()
        self._kept: dict[Key, tuple[float, Mapping[str, str]]] = {}

    def of(self, agent_id: UUID | None) -> SecretSource:
        """Return where the runs of an agent find its secrets, and no one else's."""
        return no_secrets if agent_id is None else partial(self._resolve, agent_id)

    async def _resolve(self, agent_id: UUID, names: frozenset[str]) -> Mapping[str, str]:
        key = (agent_id, names)
        async with self._asking:
            until, values = self._kept.get(key, (0.0, {}))
            if time.monotonic() >= until:
                values = await self._ask(agent_id, names)
                if len(self._kept) >= CAPACITY:
                    self._kept.clear()
                self._kept[key] = (time.monotonic() + KEPT_SECONDS, values)
            return values

    async def _ask(self, agent_id: UUID, names: frozenset[str]) -> Mapping[str, str]:
        try:
            tx = await self._line.open()
            found = await secrets.sealed(tx, names, owner=agent_id)
        except (psycopg.Error, OSError):
            raise StepError("the secrets can not be read at the moment", retryable=True) from None
        try:
            return {
                name: self._keys.open(sealed, owner=agent_id, name=name)
                for name, sealed in found.items()
            }
        except Undecipherable as error:
            # Retryable: during a change of keys another worker may have the right one.
            raise StepError(error.message, retryable=True) from None
