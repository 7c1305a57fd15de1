"""What an extension is handed in place of the house: one small facade a capability.

Facades only take note of what an extension wants; the host acts on it when the extension is
started. A capability that was not granted has :class:`Denied` where its facade would be.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.signature import ToolFunction
from ordinaut.engine.tool import RunsIn, Tool
from ordinaut.errors import CapabilityDenied, ExtensionError
from ordinaut.model import Effect, Json
from ordinaut.plugins.base import Capability
from ordinaut.plugins.home import Home
from ordinaut.plugins.schema import Manifest


def denial(extension_id: str, *capabilities: Capability) -> CapabilityDenied:
    """Build the error that names what was not granted, and what would change that."""
    names = " or ".join(capability.name for capability in capabilities)
    return CapabilityDenied(
        f"extension {extension_id!r} was not granted {names}: it takes "
        "requested_capabilities(), grants in extension.json, and the operator's consent "
        f"(ORDINAUT_EXT_{extension_id.upper()}__GRANTS)"
    )


class Denied:
    """Stands where a facade would be; whatever is asked of it is refused."""

    def __init__(self, error: CapabilityDenied) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._error


class ToolFacade:
    """``tool_registry``: collects tools under the extension's own names.

    They enter the registry of the process when :meth:`commit` is called, so an extension that
    fails half-way leaves none behind; later ones enter it at once, until :meth:`withdraw`.
    """

    def __init__(self, manifest: Manifest, home: Home) -> None:
        self._manifest = manifest
        self._home = home
        self._staged = ToolRegistry()
        self._pending: list[functools.partial[Tool]] = []
        self._registry: ToolRegistry | None = None
        self._withdrawn = False

    def register(
        self,
        name: str,
        fn: ToolFunction,
        *,
        input_schema: Json = None,
        output_schema: Json = None,
        description: str = "",
        effect: Effect = "idempotent",
        timeout: float | None = None,
        examples: Sequence[Json] = (),
        runs_in: RunsIn = "thread",
    ) -> None:
        add = functools.partial(
            ToolRegistry.register,
            name=self._full_name(name),
            fn=fn if runs_in == "process" else at_home(fn, self._home),
            input_schema=input_schema,
            output_schema=output_schema,
            description=description,
            effect=effect,
            timeout=timeout,
            examples=examples,
            runs_in=runs_in,
        )
        if self._withdrawn:
            raise ExtensionError(f"extension {self._manifest.id!r} is stopped")
        if self._registry is not None:
            add(self._registry)
        else:
            self._pending.append(add)
        add(self._staged)

    def unregister(self, name: str) -> None:
        full = self._full_name(name)
        if full not in self._staged:
            return
        self._staged.unregister(full)
        if self._registry is not None:
            self._registry.unregister(full)
        else:
            self._pending = [add for add in self._pending if add.keywords["name"] != full]

    def commit(self, registry: ToolRegistry) -> None:
        """Enter all tools into ``registry``, or none."""
        taken = sorted(name for name in self._staged.names() if name in registry)
        if taken:
            raise ExtensionError(f"tool {taken[0]!r} is registered by another extension")
        for add in self._pending:
            add(registry)
        self._registry = registry

    def withdraw(self) -> None:
        """Take all tools away, for good; harmless when repeated."""
        self._withdrawn = True
        for name in self.names():
            self.unregister(name)

    def names(self) -> tuple[str, ...]:
        """Return the full names of the tools, sorted."""
        return self._staged.names()

    def _full_name(self, name: str) -> str:
        """Prefix a name; one that would stand among others' names is refused."""
        own = f"ext.{self._manifest.id}."
        first, dot, _ = name.partition(".")
        if name.startswith(own) or (dot and first in self._manifest.tool_prefixes):
            return name
        if dot:
            raise ExtensionError(
                f"tool name {name!r} lies outside of extension {self._manifest.id!r}; "
                f"register {name.rpartition('.')[2]!r}, it becomes "
                f"{own + name.rpartition('.')[2]!r}"
            )
        return own + name


def at_home(fn: ToolFunction, home: Home) -> ToolFunction:
    """Return ``fn`` with the same signature, running in the extension's own event loop.

    Synchronous tools run in a thread anyway and stay as they are.
    """
    if home.is_core:
        return fn
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await home.run(fn, *args, **kwargs)

        return call
    if inspect.isasyncgenfunction(fn):

        @functools.wraps(fn)
        async def generate(*args: Any, **kwargs: Any) -> Any:
            values = fn(*args, **kwargs)
            try:
                while True:
                    yield await home.run(anext, values)
            except StopAsyncIteration:
                return
            finally:
                await home.run(values.aclose)

        return generate
    return fn


@dataclass(slots=True)
class StaticFacade:
    """``context["static"]``: directories inside the extension's folder, by path."""

    folder: Path
    mounts: dict[str, Path] = field(default_factory=dict)

    def mount(self, path: str, directory: str) -> None:
        root = self.folder.resolve()
        target = (root / directory).resolve()
        if not target.is_relative_to(root) or not target.is_dir():
            raise ExtensionError(f"{directory!r} is not a directory inside the extension's folder")
        if not path.startswith("/") or path == "/":
            raise ExtensionError(f"{path!r} is not a path; '/static' would be one")
        self.mounts[path] = target
