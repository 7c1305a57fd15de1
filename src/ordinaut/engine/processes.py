"""Calls in processes of their own, for functions that keep a processor busy.

A thread of Python keeps all others of its process waiting while it computes; a process does
not, and it can be ended when its time is over. As many calls run at a time as the machine has
processors (``anyio.to_process``); the processes are kept for the next call. A function is known
there by its module and name, and what it takes and gives is pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from importlib.machinery import NamespaceLoader
from typing import Any, NamedTuple

from anyio import BrokenResourceError, BrokenWorkerProcess, to_process

from ordinaut.errors import EffectUnknown, InvalidInput, OrdinautError, StepError, ToolError

WATCH = 1.0  # seconds between looks whether the worker still lives


class Place(NamedTuple):
    """Where a function is found; ``folders`` are those of a package without a loader."""

    module: str
    name: str
    folders: tuple[str, ...] = ()


class Failure(NamedTuple):
    """An exception on its way back: its own object may not survive it."""

    name: str
    message: str
    trace: str
    said: Mapping[str, Any] | None  # by a StepError: how to raise it again


class ProcessDied(Exception):
    """The process ended before the function did: killed, or out of memory."""


def place_of(fn: Callable[..., Any]) -> Place:
    """Return where another process finds ``fn``; raise :class:`InvalidInput` when it can not."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "<none>")
    top = sys.modules.get((module or "").split(".")[0])
    if module in (None, "__main__") or top is None or "<" in name:
        raise InvalidInput("what runs in a process is a function of a module, by its name")
    loose = top.__spec__ is not None and isinstance(top.__spec__.loader, NamespaceLoader)
    place = Place(module, name, tuple(top.__path__) if loose else ())
    if _find(place) != fn:
        raise InvalidInput(f"{module}:{name} is another object; what runs in a process is not")
    return place


async def in_process(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function in another process and return what it returns.

    Cancelling this ends the process. Raises :class:`InvalidInput` for a function that has no
    name in a module, :class:`ProcessDied`, and what the function raises: a :class:`StepError`
    as it is, anything else as an exception of that name.
    """
    return await call(place_of(fn), args, kwargs)


async def call(place: Place, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do as :func:`in_process`, with a function that was looked up before."""
    while True:
        try:
            result = await to_process.run_sync(
                _contained, os.getpid(), place, args, kwargs, cancellable=True
            )
            break
        except BrokenWorkerProcess as error:
            if isinstance(error.__cause__, BrokenResourceError):
                continue  # it had ended before, while it was idle, and did not hear of the call
            raise ProcessDied("its process ended: it was killed, or out of memory") from error
    if isinstance(result, Failure):
        raise _exception(result)
    return result


def _exception(failure: Failure) -> Exception:
    if failure.said is None:
        kind = type(failure.name, (Exception,), {})
        error: Exception = kind(failure.message)
    else:
        kind = EffectUnknown if failure.name == EffectUnknown.__name__ else ToolError
        error = kind(failure.message, **failure.said)
    error.add_note(failure.trace)
    return error


# --- In the other process -------------------------------------------------------------------


def _contained(parent: int, place: Place, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    _watch(parent)
    try:
        return _find(place)(*args, **kwargs)
    except BaseException as error:  # foreign code; it must not end the process either
        return _failure(error)


def _failure(error: BaseException) -> Failure:
    try:
        message = str(error)
    except Exception:  # foreign code
        message = "(its message can not be read)"
    said: dict[str, Any] | None = None
    if isinstance(error, OrdinautError):
        said = {"retryable": error.retryable}
    if isinstance(error, StepError):
        said = {"retryable": error.retryable, "details": error.details}
    trace = "".join(traceback.format_tb(error.__traceback__))
    return Failure(type(error).__name__, message, trace, said)


def _find(place: Place) -> Any:
    top = place.module.split(".")[0]
    if place.folders and top not in sys.modules:
        spec = importlib.util.spec_from_loader(top, loader=None, is_package=True)
        assert spec is not None
        spec.submodule_search_locations = list(place.folders)
        sys.modules[top] = importlib.util.module_from_spec(spec)
    return reduce(getattr, place.name.split("."), importlib.import_module(place.module))


_watched: set[int] = set()


def _watch(parent: int) -> None:
    """End this process when the worker is gone: nobody waits for the result any more."""
    if parent in _watched:
        return
    _watched.add(parent)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=look, name="ordinaut-watch", daemon=True).start()
