"""Errors as problem+json (RFC 9457): the only place where an error meets an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ordinaut import telemetry
from ordinaut.api import browser
from ordinaut.api.dependencies import AGENT
from ordinaut.api.json import dumps
from ordinaut.errors import (
    Conflict,
    ExtensionError,
    FieldProblem,
    Forbidden,
    InvalidInput,
    InvalidTemplate,
    NotFound,
    OrdinautError,
    PreconditionFailed,
    StepError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:ordinaut:problem:"  # a name, not an address: nothing has to answer there

MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "is required",
    "model_attributes_type": "should be an object",
    "dict_type": "should be an object",
    "list_type": "should be a list",
}

# The first class that fits decides, so a subclass stands before its base.
STATUS: tuple[tuple[type[OrdinautError], HTTPStatus], ...] = (
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED),
    (Conflict, HTTPStatus.CONFLICT),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StepError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (ExtensionError, HTTPStatus.SERVICE_UNAVAILABLE),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)

log = telemetry.logger(__name__)


class UnsupportedMediaType(InvalidInput):
    """The body is not declared to be JSON."""

    code = "unsupported_media_type"


def problem(
    request: Request,
    status: int,
    *,
    code: str,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    position: object = None,
) -> Response:
    """Return the answer that says what was wrong, where, and what would be right."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
    }
    if errors:
        body["errors"] = [{"path": e.path, "message": e.message, "code": e.code} for e in errors]
    if position is not None:
        body["position"] = position
    return Response(dumps(body), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` leave as problem+json."""
    app.add_exception_handler(OrdinautError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(psycopg.OperationalError, _database_away)
    app.add_exception_handler(psycopg.errors.DataError, _data)
    app.add_exception_handler(OverflowError, _overflow)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: OrdinautError) -> HTTPStatus:
    """Return the HTTP status of an error; what has none is our own fault."""
    if isinstance(error, UnsupportedMediaType):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    fitting = (status for kind, status in STATUS if isinstance(error, kind))
    return next(fitting, HTTPStatus.INTERNAL_SERVER_ERROR)


def path(location: Sequence[str | int]) -> str:
    """Write a place as a reader would: ``payload.pipeline[2].with.url``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def summary(problems: Sequence[FieldProblem]) -> str:
    """Say the first problem, and how many there are."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first.path or 'the body'}: {first.message}{more}"


def field_problems(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> list[FieldProblem]:
    """Turn what pydantic found into field problems; ``skip`` parts of the place are left out."""
    return [FieldProblem(path(e["loc"][skip:]), _said(e), e["type"]) for e in errors]


def _said(error: Mapping[str, Any]) -> str:
    # pydantic speaks of "inputs" and "extras"; the reader has sent fields.
    message: str = MESSAGES.get(error["type"], error["msg"])
    return message.removeprefix("Value error, ").removeprefix("Input ")


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrdinautError)
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return await _unexpected(request, error)
    if isinstance(error, Unauthenticated | Forbidden | TooManyRequests):
        _note_refusal(request, error)
    if isinstance(error, Unauthenticated) and (way := browser.way_to_sign_in(request)):
        return way
    return problem(
        request,
        status,
        code=error.code,
        detail=error.message,
        errors=_problems(error),
        headers=_headers(error),
        position=_position(error),
    )


def _note_refusal(request: Request, error: OrdinautError) -> None:
    agent = request.scope.get(AGENT)
    log.warning(
        "http.refused",
        code=error.code,
        reason=error.message,
        method=request.method,
        path=request.url.path,
        address=request.client.host if request.client else "",
        agent=str(agent.id) if agent else None,
    )


def _problems(error: OrdinautError) -> tuple[FieldProblem, ...]:
    if isinstance(error, StepError) and error.path:
        return (FieldProblem(error.path, error.message, error.code),)
    return error.problems if isinstance(error, InvalidInput) else ()


def _position(error: OrdinautError) -> object:
    if isinstance(error, InvalidTemplate):
        return error.position
    return error.details.get("position") if isinstance(error, StepError) else None


def _headers(error: OrdinautError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="ordinaut"'}
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after)}
    return {"Retry-After": "1"} if isinstance(error, Unavailable) else {}


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The first part of a place says only "body" or "query".
    problems = field_problems(error.errors(), skip=1)
    return problem(request, 422, code="invalid_input", detail=summary(problems), errors=problems)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request)
    return problem(
        request,
        status,
        code="too_large" if status == 413 else status.name.lower(),
        detail=str(error.detail),
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """Return the methods of a path; they may belong to several routes."""
    fitting = (
        route.methods or ()
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    )
    return ", ".join(sorted({method for methods in fitting for method in methods}))


async def _database_away(request: Request, error: Exception) -> Response:
    log.warning("database.unavailable", error=str(error), path=request.url.path)
    return problem(
        request,
        503,
        code=Unavailable.code,
        detail="the database does not answer; try again",
        headers={"Retry-After": "1"},
    )


async def _data(request: Request, error: Exception) -> Response:
    # What our own checks let through and PostgreSQL refuses, such as a number out of range.
    log.warning("database.refused", error=str(error), path=request.url.path)
    return problem(
        request, 422, code="invalid_input", detail="a value is outside of what can be stored"
    )


async def _overflow(request: Request, error: Exception) -> Response:
    # The only sums that can overflow are those of times, and all of these were sent.
    return problem(
        request, 422, code="invalid_input", detail="a time is outside of the years 1 to 9999"
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("http.unexpected", path=request.url.path, exc_info=error)
    return problem(request, 500, code="internal", detail="an unexpected error; it is in the log")
