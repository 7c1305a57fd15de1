"""The class of all routes: strict JSON on the way in, one answer to an Idempotency-Key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from ordinaut.api import json
from ordinaut.api.dependencies import OPENED, Requires, authenticate, services
from ordinaut.api.errors import UnsupportedMediaType
from ordinaut.api.schemas.base import Problem
from ordinaut.errors import InvalidInput
from ordinaut.model import Json
from ordinaut.store import idempotency
from ordinaut.store.idempotency import HEADER, Answer

Handler = Callable[[Request], Awaitable[Response]]

MAX_KEY: Final = 255
SHOWN_ONCE: Final = ("api_key", "signing_secret")  # of an answer; not kept, but as null
KEPT_HEADERS: Final = ("content-type", "location", "etag")
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}}
    for status in (401, 403, 404, 408, 409, 412, 413, 415, 422, 429, 503)
}


class StrictRequest(Request):
    """A request whose JSON is read by :mod:`ordinaut.api.json`, once."""

    async def json(self) -> Json:
        if not hasattr(self, "_strict"):
            self._strict = json.loads(await self.body())
        return self._strict


class Route(APIRoute):
    """A route of the API."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()
        has_body = self.body_field is not None
        has_rule = any(isinstance(one.call, Requires) for one in self.dependant.dependencies)

        async def handler(request: Request) -> Response:
            if b"%00" in request.scope["query_string"]:
                raise InvalidInput("the query contains NUL (U+0000)")
            strict = StrictRequest(request.scope, request.receive)
            # Before FastAPI reads it, which would answer 400 to whatever goes wrong here.
            if has_body and await strict.body():
                _check_media_type(strict)
                await strict.json()
            if request.method == "POST" and HEADER in request.headers and has_rule:
                return await _once(strict, handle)
            try:
                return await handle(strict)
            except OperationalError as error:
                if request.method != "GET" or isinstance(error, PoolTimeout):
                    raise
                return await handle(strict)  # the connection was cut; reading again harms nobody

        return handler


def keep_apart(routes: Iterable[object]) -> None:
    """Let no path with a parameter stand for one without.

    So ``PUT /tasks/batch`` is 405, and does not look for a task "batch".
    """
    own = [route for route in routes if isinstance(route, Route)]
    plain = {route.path for route in own if not route.param_convertors}
    for route in own:
        if route.param_convertors:
            hidden = sorted(path for path in plain if route.path_regex.match(path))
            if hidden:
                others = "|".join(map(re.escape, hidden))
                pattern = route.path_regex.pattern.removeprefix("^")
                route.path_regex = re.compile(f"^(?!(?:{others})$){pattern}")


def router(prefix: str, tag: str) -> APIRouter:
    """Return a router whose routes are of this class."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Route, responses=PROBLEMS)


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType(f"send application/json, not {media_type or 'an unnamed type'}")


async def _once(request: StrictRequest, handle: Handler) -> Response:
    """Answer a key once: the change and its answer are committed together."""
    agent = await authenticate(request)
    key = request.headers[HEADER]
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InvalidInput.at(HEADER, f"1 to {MAX_KEY} printable characters")
    fingerprint = hashlib.sha256(
        f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    ).digest()
    async with services(request).db.transaction() as tx:
        known = await idempotency.claim(tx, agent.id, key=key, fingerprint=fingerprint)
        if known is not None:
            return _replay(known)
        request.scope[OPENED] = tx
        response = await handle(request)
        await idempotency.keep(
            tx, agent.id, key=key, fingerprint=fingerprint, answer=_kept(response)
        )
    return response


def _kept(response: Response) -> Answer:
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    body = bytes(response.body)
    if any(name.encode() in body for name in SHOWN_ONCE):
        body = _without_secrets(body)
    return Answer(response.status_code, orjson.dumps({"headers": headers, "body": body.decode()}))


def _without_secrets(body: bytes) -> bytes:
    said = orjson.loads(body)
    if not isinstance(said, dict) or said.keys().isdisjoint(SHOWN_ONCE):
        return body
    return json.dumps({name: None if name in SHOWN_ONCE else said[name] for name in said})


def _replay(answer: Answer) -> Response:
    kept = orjson.loads(answer.body)
    headers = kept["headers"] | {"idempotency-replayed": "true"}
    return Response(kept["body"], answer.status, headers)
