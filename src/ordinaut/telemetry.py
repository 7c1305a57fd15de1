"""Facts and logs: the core says what happened, listeners make logs and metrics of it.

``emit("run.finished", status="succeeded", seconds=0.01)`` calls every listener; domain code
knows neither Prometheus nor the shape of a log line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

Listener: TypeAlias = Callable[[str, dict[str, Any]], None]

SENSITIVE = ("password", "token", "secret", "authorization", "api_key", "pepper")

_listeners: list[Listener] = []


def emit(fact: str, **details: Any) -> None:
    """Tell every listener that ``fact`` happened; nothing happens when nobody listens."""
    for listener in _listeners:
        listener(fact, details)


def listen(listener: Listener) -> Callable[[], None]:
    """Call ``listener`` for every fact from now on; the returned function ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


def configure(*, level: str, as_json: bool, process: str) -> None:
    """Send structlog and the standard library's logs to stderr in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _without_colours,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(shared, as_json=as_json))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # What libraries say of a request may hold the secrets in it.
    for talkative in ("httpx2", "httpcore2", "alembic"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def redact(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the values of keys whose names say that they are secret."""
    for key in event:
        if any(word in key.lower() for word in SENSITIVE):
            event[key] = "[redacted]"
    return event


def _without_colours(
    _: Any, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event.pop("color_message", None)  # uvicorn says everything twice
    return event


def _console() -> structlog.dev.ConsoleRenderer:
    # Drawing a traceback with rich holds the event loop for a tenth of a second.
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _formatter(
    shared: list[structlog.typing.Processor], *, as_json: bool
) -> structlog.stdlib.ProcessorFormatter:
    last: list[structlog.typing.Processor] = (
        [
            # No local variables: they hold what redact can not know, such as addresses.
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
        if as_json
        else [_console()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
