"""The own application of an extension, on which its routes stand."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ordinaut.plugins.schema import Manifest


def new_application(manifest: Manifest) -> FastAPI:
    """Return an empty application whose unexpected errors leave as problem+json."""
    return FastAPI(
        title=manifest.name,
        version=manifest.version,
        description=manifest.description,
        docs_url=None,  # Swagger UI would come from a CDN
        redoc_url=None,
        exception_handlers={Exception: _unexpected},
        telemetry={"operation_spans": False},
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    body = {
        "type": "urn:ordinaut:problem:internal",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "an unexpected error in the extension; it is in the log",
        "instance": request.url.path,
        "code": "internal",
    }
    return JSONResponse(body, 500, media_type="application/problem+json")
