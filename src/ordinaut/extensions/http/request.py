"""One HTTP call: what goes out, what is taken in, and when it counts as failed."""

from __future__ import annotations

import asyncio
import base64
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore2
import httpx2
import orjson

from ordinaut.extensions.http.guard import GuardedBackend, Policy
from ordinaut.plugins.base import Json, ToolContext, ToolError

DEFAULT_TIMEOUT = 30.0  # seconds, from the first byte out to the last byte in
MAX_TIMEOUT = 3600.0
MAX_REDIRECTS = 10
MAX_CONNECTIONS = 200
KEPT_FOR_ERROR = 2048  # characters of a failed answer that go into the run record
RETRYABLE = frozenset({408, 425, 429})  # besides 5xx

INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["url"],
    "additionalProperties": False,
    "properties": {
        "method": {
            "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            "default": "GET",
        },
        "url": {"type": "string", "minLength": 1, "maxLength": 8192},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "query": {
            "type": "object",
            "additionalProperties": {
                "type": ["string", "number", "boolean", "null", "array"],
                "items": {"type": ["string", "number", "boolean"]},
            },
        },
        "json": {"description": "Sent as application/json."},
        "form": {
            "type": "object",
            "description": "Sent as application/x-www-form-urlencoded.",
            "additionalProperties": {
                "type": ["string", "number", "boolean", "array"],
                "items": {"type": ["string", "number", "boolean"]},
            },
        },
        "body": {"type": "string", "description": "Sent as it is; name its type in headers."},
        "timeout_seconds": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_TIMEOUT,
            "default": DEFAULT_TIMEOUT,
        },
        "follow_redirects": {"type": "boolean", "default": True},
        "raise_for_status": {
            "type": "boolean",
            "default": True,
            "description": "Whether a status of 400 or above fails the step: 408, 425, 429 and "
            "5xx so that it is tried again, the others for good.",
        },
        "expect_status": {
            "type": "array",
            "items": {"type": "integer", "minimum": 100, "maximum": 599},
            "minItems": 1,
            "description": "The only statuses that do not fail the step.",
        },
    },
    "allOf": [
        {"not": {"required": ["json", "form"]}},
        {"not": {"required": ["json", "body"]}},
        {"not": {"required": ["form", "body"]}},
    ],
}


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
            transport=_guarded_transport(self._policy),
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
        """Make one call and return ``{status, headers, json|text|base64, elapsed_ms}``."""
        began = time.perf_counter()
        limit = arguments.get("timeout_seconds", DEFAULT_TIMEOUT)
        where = _origin(arguments["url"])
        try:
            async with asyncio.timeout(limit):
                status, headers, content = await self._exchange(arguments, context)
        except TimeoutError:
            raise ToolError(f"no answer from {where} in {limit:g} s", retryable=True) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise ToolError(f"the request can not be sent: {error}", retryable=False) from None
        except httpx2.TooManyRedirects:
            raise ToolError(f"{where} redirects too often", retryable=False) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise ToolError(f"{where}: {_words(error)}", retryable=True) from None
        elapsed = round((time.perf_counter() - began) * 1000, 3)
        answer = {"status": status, "headers": headers, **_body(headers, content)}
        _judge(answer, arguments, where)
        return {**answer, "elapsed_ms": elapsed}

    async def _exchange(
        self, arguments: dict[str, Json], context: ToolContext
    ) -> tuple[int, dict[str, str], bytes]:
        if self._client is None:
            raise ToolError("the HTTP client is not open", retryable=True)
        async with self._client.stream(
            arguments.get("method", "GET"),
            httpx2.URL(arguments["url"]).copy_merge_params(arguments.get("query", {})),
            headers=_headers(arguments, context),
            content=_content(arguments),
            data=arguments.get("form"),
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


def _guarded_transport(policy: Policy) -> httpx2.AsyncHTTPTransport:
    transport = httpx2.AsyncHTTPTransport(trust_env=False)
    # httpx2 has no parameter for it: the pool is replaced by one whose connections are checked.
    transport._pool = httpcore2.AsyncConnectionPool(
        ssl_context=httpx2.create_ssl_context(trust_env=False),
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=20,
        keepalive_expiry=15.0,
        network_backend=GuardedBackend(policy),
    )
    return transport


def _headers(arguments: dict[str, Json], context: ToolContext) -> httpx2.Headers:
    headers = httpx2.Headers({"idempotency-key": context.idempotency_key})
    if "json" in arguments:
        headers["content-type"] = "application/json"
    headers.update(arguments.get("headers", {}))
    return headers


def _content(arguments: dict[str, Json]) -> bytes | None:
    if "json" in arguments:
        return orjson.dumps(arguments["json"])
    return arguments["body"].encode() if "body" in arguments else None


def _body(headers: dict[str, str], content: bytes) -> dict[str, Json]:
    """Return the answer as JSON where it is declared so, else as text, else in base64."""
    media_type = headers.get("content-type", "").split(";")[0].strip().lower()
    # No database column holds U+0000, so an answer that spells it stays text.
    if (media_type == "application/json" or media_type.endswith("+json")) and (
        b"\\u0000" not in content
    ):
        try:
            return {"json": orjson.loads(content)}
        except orjson.JSONDecodeError:
            pass
    try:
        text = content.decode(_charset(headers))
    except (UnicodeDecodeError, LookupError):
        text = "\0"
    if "\0" in text:
        return {"base64": base64.b64encode(content).decode()}
    return {"text": text}


def _charset(headers: dict[str, str]) -> str:
    _, found, rest = headers.get("content-type", "").lower().partition("charset=")
    return rest.split(";")[0].strip(" \"'") if found else "utf-8"


def _judge(answer: dict[str, Json], arguments: dict[str, Json], where: str) -> None:
    """Raise when the status means that the call failed."""
    status = answer["status"]
    expected = arguments.get("expect_status")
    if status in expected if expected else status < 400:
        return
    if not expected and not arguments.get("raise_for_status", True):
        return
    details = {**answer, "text": answer["text"][:KEPT_FOR_ERROR]} if "text" in answer else answer
    raise ToolError(
        f"{where} answered {status}",
        retryable=status >= 500 or status in RETRYABLE,
        details=details,
    )


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
