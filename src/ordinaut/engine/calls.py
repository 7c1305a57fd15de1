"""Calling a tool: foreign code, held to its time and its word.

Whatever a tool does, the caller gets a JSON value or a :class:`StepError`. Only the
cancellation of the run itself passes through.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from ordinaut.engine import processes, values
from ordinaut.engine.processes import Place
from ordinaut.engine.redaction import NOTHING, Redactor
from ordinaut.engine.tool import NotYet, Progress, Tool, ToolContext, clean_text
from ordinaut.errors import (
    EffectUnknown,
    InvalidArguments,
    InvalidOutput,
    OrdinautError,
    StepError,
    StepTimeout,
)
from ordinaut.model import Json

MAX_ERROR = 4096
MAX_DETAILS = 16 * 1024
GRACE = 2.0  # seconds between the cancellation of a call and going on without it

logger = logging.getLogger(__name__)
_left: set[asyncio.Task[Any]] = set()  # the event loop alone would not keep them alive


async def call(
    tool: Tool,
    arguments: dict[str, Json],
    *,
    seconds: float | None,
    context: ToolContext | None,
    redactor: Redactor = NOTHING,
) -> Json:
    """Call a tool and return its output, checked; it has ``seconds``, or all the time there is."""
    try:
        if seconds is None:
            result = await _invoke(tool, arguments, context)
        else:
            result = await _invoke_in_time(tool, arguments, seconds, context)
    except NotYet:
        raise
    except StepError as error:
        raise tidied(error, redactor) from None
    except OrdinautError as error:
        raise tidied(_translated(error), redactor) from None
    except asyncio.CancelledError:
        _give_up(context)
        if _is_cancelled():
            raise
        raise StepError(f'tool "{tool.name}" cancelled itself', retryable=_again(tool)) from None
    except GeneratorExit:
        raise
    except BaseException as error:  # a tool must not end the worker, not even by SystemExit
        raise _crashed(tool, error, redactor) from None
    return result if result is None else _checked(tool, result, redactor)


async def _invoke_in_time(
    tool: Tool, arguments: dict[str, Json], seconds: float, context: ToolContext | None
) -> Any:
    """Call in a task of its own, so that a tool that ignores its cancellation can be left."""
    task = asyncio.ensure_future(_contained(tool, arguments, context))
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        _give_up(context)
        await _end(tool, task)
        raise
    if done:
        result, error = task.result()
        if error is not None:
            raise error
        return result
    _give_up(context)
    await _end(tool, task)
    message = f'tool "{tool.name}" did not end within {seconds:g} s'
    if tool.effect == "at_most_once":
        raise EffectUnknown(f"{message}; it may or may not have happened")
    raise StepTimeout(message)


async def _contained(
    tool: Tool, arguments: dict[str, Json], context: ToolContext | None
) -> tuple[Any, BaseException | None]:
    """Hand over what would end the event loop if it left a task by itself."""
    try:
        return await _invoke(tool, arguments, context), None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


async def _end(tool: Tool, task: asyncio.Task[Any]) -> None:
    """Cancel a call, and leave it alone when it has not ended after the grace."""
    _left.add(task)
    task.add_done_callback(_forget)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=GRACE)
    if not done:
        logger.error('tool "%s" ignores its cancellation and is left alone', tool.name)


def _forget(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it any more


def _invoke(tool: Tool, arguments: dict[str, Json], context: ToolContext | None) -> Awaitable[Any]:
    """Return what yields the result of a tool; a coroutine of the tool itself comes as it is."""
    given: dict[str, Any] = arguments
    if tool.prepare is not None:
        given = _prepared(tool, arguments)
    extra = {"context": context} if tool.wants_context else {}
    if tool.kind == "async":
        as_one = tool.style == "dict"
        started: Awaitable[Any] = tool.fn(given, **extra) if as_one else tool.fn(**given, **extra)
        return started
    positional = (given,) if tool.style == "dict" else ()
    named = extra if tool.style == "dict" else {**given, **extra}
    if tool.kind == "generator":
        return _drain(tool.fn(*positional, **named), context)
    if tool.place is not None:
        return _call_in_process(tool, tool.place, positional, named)
    return _call_in_thread(tool, positional, named)


def _prepared(tool: Tool, arguments: dict[str, Json]) -> dict[str, Any]:
    assert tool.prepare is not None
    try:
        return tool.prepare(arguments)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        text = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
        raise InvalidArguments(
            f'tool "{tool.name}" does not take these arguments: {text}'
        ) from None


async def _call_in_thread(tool: Tool, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    result = await asyncio.to_thread(_in_thread, tool, positional, named)
    return await result if inspect.isawaitable(result) else result


def _in_thread(tool: Tool, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return tool.fn(*positional, **named)
    except StopIteration as error:
        # A future can not carry it: the awaiting side would never wake.
        raise RuntimeError("the tool raised StopIteration") from error


async def _call_in_process(
    tool: Tool, place: Place, positional: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    try:
        return await processes.call(place, positional, named)
    except processes.ProcessDied as error:
        if tool.effect == "at_most_once":
            message = f'tool "{tool.name}": {error}; it may or may not have happened'
            raise EffectUnknown(message) from None
        raise


async def _drain(generator: Any, context: ToolContext | None) -> Any:
    last = None
    async with aclosing(generator):
        async for value in generator:
            if not isinstance(value, Progress):
                last = value
            elif context is not None:
                context.progress(value.fraction, value.message)
    return last


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _give_up(context: ToolContext | None) -> None:
    if context is not None:
        context.cancelled = True


def _again(tool: Tool) -> bool:
    """Tell whether an unexplained failure of this tool is worth another attempt."""
    return tool.effect != "at_most_once"


def _translated(error: OrdinautError) -> StepError:
    return StepError(error.message, retryable=error.retryable, details={"cause": error.code})


def tidied(error: StepError, redactor: Redactor) -> StepError:
    """Make an error that holds foreign words fit to be stored."""
    # Redacted before it is cut: half a secret is one too many.
    error.message = clean_text(redactor.text(str(error.message)), limit=MAX_ERROR)
    error.args = (error.message,)
    try:
        details = values.copy_json(error.details, limit=MAX_DETAILS)
    except values.NotJson as problem:
        details = {"lost": f"the details can not be stored: {problem.message}"}
    error.details = redactor.json(details if isinstance(details, dict) else {"details": details})
    return error


def _crashed(tool: Tool, error: BaseException, redactor: Redactor) -> StepError:
    trace = redactor.text("".join(traceback.format_tb(error.__traceback__)))
    text = describe(error, redactor)
    logger.error('tool "%s" failed: %s\n%s', tool.name, text, trace)
    message = f'tool "{tool.name}" failed: {text}'
    return StepError(message, retryable=_again(tool), details={"exception": type(error).__name__})


def describe(error: BaseException, redactor: Redactor = NOTHING) -> str:
    """Return the type and text of an exception whose ``str()`` may fail itself."""
    try:
        text = redactor.text(str(error))
    except Exception:  # foreign code
        text = "(its message can not be read)"
    name = type(error).__name__
    return clean_text(f"{name}: {text}" if text else name, limit=MAX_ERROR)


def _checked(tool: Tool, result: Any, redactor: Redactor) -> Json:
    try:
        output = values.copy_json(result if tool.dump is None else tool.dump(result))
    except values.NotJson as error:
        place = f" at output{error.path}" if error.path else ""
        message = f'tool "{tool.name}" returned what can not be stored{place}: {error.message}'
        raise InvalidOutput(message) from None
    except Exception as error:  # the serializers of foreign types
        message = f'tool "{tool.name}" returned what is not its own type: '
        raise InvalidOutput(message + describe(error, redactor)) from None
    output = redactor.json(output)
    if tool.gives is not None and not tool.gives.accepts(output):
        problems = tool.gives.problems(output, path="output")
        text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
        raise InvalidOutput(f'tool "{tool.name}" broke its output schema: {text}')
    return output
