"""What ``http.request`` takes."""

from __future__ import annotations

from typing import Any

DEFAULT_TIMEOUT = 30.0  # seconds, from the first byte out to the last byte in
MAX_TIMEOUT = 3600.0
DEFAULT_PAGES = 10

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
        "auth": {
            "type": "object",
            "description": "Sent as Authorization, and not to another host after a redirect.",
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                "bearer": {"type": "string", "minLength": 1},
                "basic": {
                    "type": "object",
                    "required": ["username", "password"],
                    "additionalProperties": False,
                    "properties": {
                        "username": {"type": "string"},
                        "password": {"type": "string"},
                    },
                },
            },
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
        "paginate": {
            "type": "object",
            "description": "Ask for page after page; the output has items, pages and truncated.",
            "required": ["items", "next"],
            "additionalProperties": False,
            "properties": {
                "items": {
                    "type": "string",
                    "description": "JMESPath over the json of a page: its list of items.",
                },
                "next": {
                    "type": "string",
                    "description": "JMESPath over {json, headers, links} of a page: the address "
                    "of the next one, or with param its token; null ends.",
                },
                "param": {"type": "string", "description": "The query parameter of the token."},
                "max_pages": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 1000,
                    "default": DEFAULT_PAGES,
                },
            },
        },
    },
    "allOf": [
        {"not": {"required": ["json", "form"]}},
        {"not": {"required": ["json", "body"]}},
        {"not": {"required": ["form", "body"]}},
    ],
}

OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["status", "headers", "elapsed_ms"],
    "properties": {
        "status": {"type": "integer"},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "json": {"description": "The body, where the answer says that it is JSON."},
        "text": {"type": "string", "description": "Any other body that is text."},
        "base64": {"type": "string", "description": "A body that is no text."},
        "items": {"type": "array", "description": "With paginate, in place of the body."},
        "pages": {"type": "integer"},
        "truncated": {"type": "boolean", "description": "Whether pages were left over."},
        "elapsed_ms": {"type": "number"},
    },
}
