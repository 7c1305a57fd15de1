"""Graphile Worker for ``benchmarks.queue``: ``graphile.mjs`` in a folder that npm fills."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psycopg
from benchmarks.contenders import Peer

# This Graphile Worker asks for a Node that is newer than those of many systems.
PACKAGES = ("graphile-worker@0.18.0", "node@22.23.3")


def is_possible() -> bool:
    """Whether this machine can install it."""
    return all(map(shutil.which, ("node", "npm")))


def install(folder: Path) -> None:
    """Make ``folder`` with all that is needed. Raises CalledProcessError with npm's words."""
    folder.mkdir()
    npm = ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", "--prefix", str(folder)]
    subprocess.run([*npm, *PACKAGES], check=True, capture_output=True, text=True)
    shutil.copy(Path(__file__).with_suffix(".mjs"), folder)  # it imports what lies beside it


class Graphile(Peer):
    """Graphile Worker, installed in a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        super().__init__("graphile", url)

    def _command(self, verb: str, number: int) -> list[str]:
        node = self._folder / "node_modules/.bin/node"
        return [str(node), str(self._folder / "graphile.mjs"), verb, self.url, str(number)]

    async def throughput(self, *, processes: int, count: int, batch: int) -> tuple[float, float]:
        found = await super().throughput(processes=processes, count=count, batch=batch)
        with psycopg.connect(self.url) as connection:
            left = connection.execute("SELECT count(*) FROM graphile_worker.jobs").fetchone()
        assert left == (0,), f"{left} jobs are left"
        return found
