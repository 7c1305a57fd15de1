"""What is taken from an answer, and when it counts as failed."""

from __future__ import annotations

import base64

import orjson

from ordinaut.plugins.base import Json, ToolError

KEPT = 2048  # characters of a failed answer that go into the record of the run
RETRYABLE = frozenset({408, 425, 429})  # besides 5xx


def read_body(headers: dict[str, str], content: bytes) -> dict[str, Json]:
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


def judge(answer: dict[str, Json], arguments: dict[str, Json], where: str) -> None:
    """Raise when the status means that the call failed."""
    status = answer["status"]
    expected = arguments.get("expect_status")
    if status in expected if expected else status < 400:
        return
    if not expected and not arguments.get("raise_for_status", True):
        return
    retryable = status >= 500 or status in RETRYABLE
    raise ToolError(f"{where} answered {status}", retryable=retryable, details=_excerpt(answer))


def _excerpt(answer: dict[str, Json]) -> dict[str, object]:
    """What of a failed answer goes into the record of the run."""
    kept: dict[str, object] = {"status": answer["status"], "headers": answer["headers"]}
    if "json" not in answer:
        return {**kept, "text": answer.get("text", "")[:KEPT]}
    text = orjson.dumps(answer["json"]).decode()
    return kept | ({"json": answer["json"]} if len(text) <= KEPT else {"text": text[:KEPT]})
