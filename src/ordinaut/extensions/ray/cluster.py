"""Functions on a Ray cluster: submitted, awaited, cancelled.

Ray is imported and connected to at the first call, in a thread: both take seconds.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from ordinaut.plugins.base import Json, ToolContext, ToolError

DEFAULT_PARALLEL = 16
MAX_ITEMS = 10_000

_COMMON: dict[str, Any] = {
    "function": {"type": "string", "description": "A name of the operator's list."},
    "kwargs": {"type": "object"},
    "num_cpus": {"type": "number", "minimum": 0, "default": 1},
    "num_gpus": {"type": "number", "minimum": 0, "default": 0},
    "memory_bytes": {"type": "integer", "minimum": 1},
}
RUN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["function"],
    "additionalProperties": False,
    "properties": {**_COMMON, "args": {"type": "array"}},
}
MAP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["function", "items"],
    "additionalProperties": False,
    "properties": {
        **_COMMON,
        "items": {"type": "array", "maxItems": MAX_ITEMS},
        "max_parallel": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "default": DEFAULT_PARALLEL,
        },
    },
}


class Cluster:
    """The operator's cluster and the functions that may run there."""

    def __init__(self, address: str, functions: Mapping[str, str]) -> None:
        self._address = address
        self._functions = dict(functions)
        self._connecting = asyncio.Lock()
        self._ray: Any = None  # the module; it has no types worth the name

    async def close(self) -> None:
        """Leave the cluster."""
        if self._ray is not None:
            await asyncio.to_thread(self._ray.shutdown)
            self._ray = None

    async def run(self, arguments: dict[str, Json]) -> Json:
        """Run one function and return what it returns."""
        remote = await self._remote(arguments)
        positional = arguments.get("args", [])
        return await self._await(remote.remote(*positional, **arguments.get("kwargs", {})))

    async def map(self, arguments: dict[str, Json], *, context: ToolContext) -> Json:
        """Run one function for each item, some at once, and return the list."""
        remote = await self._remote(arguments)
        items = arguments["items"]
        slots = asyncio.Semaphore(arguments.get("max_parallel", DEFAULT_PARALLEL))
        done = 0

        async def one(item: Json) -> Json:
            nonlocal done
            async with slots:
                result = await self._await(remote.remote(item, **arguments.get("kwargs", {})))
            done += 1
            context.progress(done / len(items), f"{done} of {len(items)}")
            return result

        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(one(item)) for item in items]
        except* ToolError as failed:
            # The others were cancelled, also on the cluster; the first failure tells why.
            raise failed.exceptions[0] from None
        return [task.result() for task in running]

    async def _remote(self, arguments: dict[str, Json]) -> Any:
        """Return the function as Ray runs it, with the resources that were asked for."""
        name = arguments["function"]
        if name not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise ToolError(
                f"no function {name!r}; the operator listed: {known} (ORDINAUT_EXT_RAY__FUNCTIONS)",
                retryable=False,
            )
        ray = await self._connected()
        options = {
            "num_cpus": arguments.get("num_cpus", 1),
            "num_gpus": arguments.get("num_gpus", 0),
            "max_retries": 0,  # who retries is the pipeline
        }
        if "memory_bytes" in arguments:
            options["memory"] = arguments["memory_bytes"]
        return ray.remote(**options)(_caller(self._functions[name]))

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._ray is None:
                self._ray = await asyncio.to_thread(self._connect)
            return self._ray

    def _connect(self) -> Any:
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise ToolError("Ray is not installed: pip install 'ordinaut[ray]'") from None
        try:
            ray.init(
                address=None if self._address == "local" else self._address,
                include_dashboard=False if self._address == "local" else None,
                ignore_reinit_error=True,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError) as error:
            raise ToolError(f"Ray at {self._address}: {error}", retryable=True) from None
        return ray

    async def _await(self, reference: Any) -> Json:
        """Wait for a result; who is cancelled cancels the work."""
        try:
            return await asyncio.wrap_future(reference.future())
        except asyncio.CancelledError:
            # By force: anything less waits until the function looks up from what it does.
            self._ray.cancel(reference, force=True)
            raise
        except self._ray.exceptions.RayTaskError as error:
            raise ToolError(f"the function failed: {error.cause!r}", retryable=True) from None
        except self._ray.exceptions.RayError as error:
            raise ToolError(f"Ray: {type(error).__name__}: {error}", retryable=True) from None


def _caller(place: str) -> Callable[..., Any]:
    """Return a function that finds and calls ``module:name`` where it runs.

    Defined in here it travels by value, so the nodes need the module but not Ordinaut.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        module, _, name = place.partition(":")
        found = reduce(getattr, name.split("."), importlib.import_module(module))
        return found(*args, **kwargs)  # type: ignore[operator]  # getattr knows no types

    return call
