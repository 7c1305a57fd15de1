"""What the commands of ``ordinaut ext`` do."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ordinaut.config import load_settings
from ordinaut.errors import ExtensionError, NotFound
from ordinaut.plugins import loader, options
from ordinaut.plugins.description import Description
from ordinaut.plugins.loader import Found
from ordinaut.plugins.schema import MANIFEST, check_id
from ordinaut.store import audit, extensions
from ordinaut.store.database import Database
from ordinaut.testing import ExtensionKit, extension_kit

# Listing needs no server; the settings that name one may be missing.
PLACEHOLDERS: dict[str, Any] = {
    "database_url": "postgresql://none.invalid/none",
    "redis_url": "redis://none.invalid",
    "secret": "not used where nothing is signed",
}


def check(folder: Path) -> list[str]:
    """Start and stop the extension in ``folder``; raises the reason when that fails."""
    found = folder if (folder / MANIFEST).exists() else _inside(folder)
    return asyncio.run(_check(found))


def run_tests(folder: Path) -> int:
    """Run pytest in ``folder`` and return its exit code."""
    if importlib.util.find_spec("pytest") is None:
        raise NotFound("pytest is not installed; pip install pytest")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    return subprocess.run(command, cwd=folder, check=False).returncode


def listing() -> Iterator[str]:
    """Yield one line for each extension, and the reason of those that can not be used."""
    settings = load_settings(**PLACEHOLDERS)
    found = loader.discover(settings.ext_paths)
    width = max(len(one.id) for one in found)
    for one in found:
        if one.manifest is None:
            yield f"{one.id:{width}}  refused  {one.reason}"
            continue
        given = settings.ext_options.get(one.id, {})
        on = options.is_enabled(one.manifest, given) and one.id not in settings.ext_disabled
        grants = " ".join(sorted(grant.name for grant in options.allowed(one.manifest, given)))
        yield (
            f"{one.id:{width}}  {'on ' if on else 'off'}  {one.manifest.version:8}  "
            f"{one.source:11}  {grants}"
        )


def choose(id: str, database_url: str, *, enabled: bool) -> None:
    """Store the operator's decision; every process follows it."""
    check_id(id)
    asyncio.run(_choose(id, database_url, enabled=enabled))


def _inside(folder: Path) -> Path:
    """Find the one extension of a package in ``folder``."""
    manifests = sorted(folder.glob(f"src/*/{MANIFEST}"))
    if len(manifests) != 1:
        raise ExtensionError(f"no {MANIFEST} in {folder}")
    return manifests[0].parent


async def _check(folder: Path) -> list[str]:
    (found,) = loader.discover([folder], built_in=False, installed=False)
    if found.manifest is None:
        raise ExtensionError(found.reason)
    async with extension_kit(folder) as kit:
        return list(_report(found, kit, kit.description))


def _report(found: Found, kit: ExtensionKit, one: Description) -> Iterator[str]:
    yield f"{one.id} {one.version} starts"
    yield f"granted: {', '.join(one.grants) or 'nothing'}"
    unused = sorted({grant.name for grant in found.usable.grants} - set(one.grants))
    if unused:
        yield f"granted by the manifest, but not requested: {', '.join(unused)}"
    for tool in kit.host.tools.catalogue():
        yield f"tool {tool['name']} ({tool['effect']}): {tool['description'] or 'no description'}"
    for route in kit.routes:
        yield f"route {route}"
    for subscription in one.subscriptions:
        yield f"listens to {subscription['stream']}"
    for task in one.background:
        yield f"background task {task['name']}"


async def _choose(id: str, database_url: str, *, enabled: bool) -> None:
    async with Database(database_url) as db, db.transaction() as tx:
        await extensions.choose(tx, id, enabled=enabled, actor=audit.SYSTEM)
