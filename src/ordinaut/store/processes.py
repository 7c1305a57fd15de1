"""The processes of the cluster, as they report themselves."""

from __future__ import annotations

import os
import socket
from importlib import metadata
from typing import Literal, TypeAlias
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx

Kind: TypeAlias = Literal["worker", "scheduler", "api"]
State: TypeAlias = Literal["running", "draining", "stopped"]

SQL = Queries("processes")


async def report(tx: Tx, *, id: UUID, kind: Kind, state: State, details: Json) -> None:
    """Note that this process lives; the first report is its registration."""
    await tx.execute(
        SQL["report"],
        {
            "id": id,
            "kind": kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": metadata.version("ordinaut"),
            "state": state,
            "details": Jsonb(details),
        },
    )
