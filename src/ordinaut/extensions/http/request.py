"""One HTTP call: what goes out, within which limits, and what may be tried again."""

from __future__ import annotations

import asyncio
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2
import orjson

from ordinaut.extensions.http.answer import judge, read_body
from ordinaut.extensions.http.paging import collect
from ordinaut.extensions.http.schema import DEFAULT_TIMEOUT
from ordinaut.guard import Policy, guarded_transport
from ordinaut.plugins.base import Json, ToolContext, ToolError

MAX_REDIRECTS = 10
MAX_CONNECTIONS = 200


class Requests:
    """The long-lived client behind ``http.request``."""

    def __init__(self, policy: Policy, *, max_answer_bytes: int) -> None:
        self._policy = policy
        self._limit = max_answer_bytes
        self._client: httpx2.AsyncClient | None = None

    def open(self) -> None:
        """Make the client; it connects only when it is used."""
        # Cookies of one task must not travel with the requests of another.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx2.AsyncClient(
            transport=guarded_transport(self._policy, max_connections=MAX_CONNECTIONS),
            cookies=no_cookies,
            timeout=None,  # asyncio.timeout bounds the whole call instead of each read
            trust_env=False,  # a proxy from the environment would lead around the guard
            max_redirects=MAX_REDIRECTS,
            headers={"user-agent": "ordinaut"},
        )

    async def close(self) -> None:
        """Close the client and its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def request(self, arguments: dict[str, Json], *, context: ToolContext) -> Json:
        """Make one call, or with ``paginate`` one for each page, and return the answer."""
        if "paginate" in arguments:
            return await collect(self._call, arguments, context)
        return await self._call(arguments, context)

    async def _call(
        self, arguments: dict[str, Json], context: ToolContext, page: int = 1
    ) -> dict[str, Json]:
        began = time.perf_counter()
        limit = arguments.get("timeout_seconds", DEFAULT_TIMEOUT)
        where = _origin(arguments["url"])
        try:
            async with asyncio.timeout(limit):
                status, headers, content = await self._exchange(arguments, context, page)
        except TimeoutError:
            raise ToolError(f"no answer from {where} in {limit:g} s", retryable=True) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise ToolError(f"the request can not be sent: {error}", retryable=False) from None
        except httpx2.TooManyRedirects:
            raise ToolError(f"{where} redirects too often", retryable=False) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise ToolError(f"{where}: {_words(error)}", retryable=True) from None
        elapsed = round((time.perf_counter() - began) * 1000, 3)
        answer = {"status": status, "headers": headers, **read_body(headers, content)}
        judge(answer, arguments, where)
        return {**answer, "elapsed_ms": elapsed}

    async def _exchange(
        self, arguments: dict[str, Json], context: ToolContext, page: int
    ) -> tuple[int, dict[str, str], bytes]:
        if self._client is None:
            raise ToolError("the HTTP client is not open", retryable=True)
        async with self._client.stream(
            arguments.get("method", "GET"),
            httpx2.URL(arguments["url"]).copy_merge_params(arguments.get("query", {})),
            headers=_headers(arguments, context, page),
            content=_content(arguments),
            data=arguments.get("form"),
            auth=_auth(arguments),
            follow_redirects=arguments.get("follow_redirects", True),
        ) as response:
            content = await self._read(response)
            return response.status_code, dict(response.headers), content

    async def _read(self, response: httpx2.Response) -> bytes:
        """Read the answer, decompressed, up to the limit."""
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > self._limit:
                raise ToolError(f"the answer is over {self._limit} bytes", retryable=False)
            parts.append(part)
        return b"".join(parts)


def _headers(arguments: dict[str, Json], context: ToolContext, page: int) -> httpx2.Headers:
    key = context.idempotency_key if page == 1 else f"{context.idempotency_key}:{page}"
    headers = httpx2.Headers({"idempotency-key": key})
    if "json" in arguments:
        headers["content-type"] = "application/json"
    if bearer := arguments.get("auth", {}).get("bearer"):
        headers["authorization"] = f"Bearer {bearer}"
    headers.update(arguments.get("headers", {}))
    return headers


def _auth(arguments: dict[str, Json]) -> httpx2.BasicAuth | None:
    basic = arguments.get("auth", {}).get("basic")
    return httpx2.BasicAuth(**basic) if basic else None


def _content(arguments: dict[str, Json]) -> bytes | None:
    if "json" in arguments:
        return orjson.dumps(arguments["json"])
    return arguments["body"].encode() if "body" in arguments else None


def _origin(url: str) -> str:
    """The part of an address that may stand in a message: no path, query or password."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ToolError(f"the url can not be used: {error}", retryable=False) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ToolError("the url does not begin with http:// or https://", retryable=False)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
