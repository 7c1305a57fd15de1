"""Extensions made on the spot, and hosts for them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from ordinaut.config import Settings
from ordinaut.plugins import loader
from ordinaut.plugins.description import Description
from ordinaut.plugins.gateway import Authorize, refuse_all
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.member import Limits

HELLO = """
    from fastapi import APIRouter
    from ordinaut.plugins.base import Capability, Extension, ExtensionInfo
    class Hello(Extension):
        def info(self): return ExtensionInfo(id="hello", name="Hello", version="0.1.0")
        def requested_capabilities(self): return {Capability.ROUTES}
        def setup(self, *, app, mount_path, **kwargs):
            router = APIRouter()
            @router.get("/hello")
            def hello(): return {"hello": "world"}
            return router
    def get_extension(): return Hello()
"""


def settings(**given: Any) -> Settings:
    """Settings that lead to no server."""
    values: dict[str, Any] = {
        "database_url": "postgresql://nowhere.invalid/none",
        "redis_url": "redis://nowhere.invalid",
        "secret": "s" * 32,
    }
    return Settings(**values | given)


def write(root: Path, id: str, code: str = "", /, **manifest: Any) -> Path:
    """Write the folder of one extension; ``code`` is its extension.py."""
    folder = root / id.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    text = {"id": id, "name": id.title(), "version": "1.0.0", **manifest}
    (folder / "extension.json").write_text(json.dumps(text))
    (folder / "extension.py").write_text(textwrap.dedent(code))
    return folder


def extension(id: str, *, wants: str = "", setup: str = "pass", more: str = "") -> str:
    """Return the code of an extension that requests ``wants`` and does ``setup``."""
    body = textwrap.indent(textwrap.dedent(setup).strip(), " " * 8)
    rest = textwrap.indent(textwrap.dedent(more).strip(), " " * 4)
    requested = ", ".join(f"Capability.{word}" for word in wants.split())
    return f"""\
import asyncio, os, time
from fastapi import APIRouter, Request
from ordinaut.plugins.base import *
class Made(Extension):
    def info(self): return ExtensionInfo({id!r}, {id!r}, "1.0.0")
    def requested_capabilities(self): return {{{requested}}} or set()
    def setup(self, *, app, mount_path, tool_registry, grants, context):
{body}
{rest}
def get_extension(): return Made()
"""


def host(
    *paths: Path,
    built_in: bool = False,
    installed: bool = False,
    authorize: Authorize = refuse_all,
    limits: Limits | None = None,
    **given: Any,
) -> ExtensionHost:
    """Return a host of the extensions in ``paths``."""
    found = loader.discover(paths, built_in=built_in, installed=installed)
    return ExtensionHost(settings(**given), found=found, authorize=authorize, limits=limits)


def shown(host: ExtensionHost, id: str) -> Description:
    """Return how the host describes one extension."""
    return next(one for one in host.describe() if one.id == id)
