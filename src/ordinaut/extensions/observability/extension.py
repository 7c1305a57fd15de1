"""Metrics in the text format of Prometheus.

Requests are those of this process; queue, processes and runs are those of the cluster, read
from the store when somebody asks. Every replica of the API shows the same figures of the
cluster, so a query over several takes their maximum, not their sum.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ordinaut.extensions.observability.metrics import Metrics
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo


class Observability(Extension):
    """Listens to the facts of its process and serves ``/metrics``."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("observability", "Observability", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.ROUTES}

    def setup(self, *, context: Context, **_: Any) -> APIRouter:
        self._services, self._listen = context["services"], context["listen"]
        self._metrics = Metrics()
        router = APIRouter()
        router.add_api_route("/metrics", self.metrics, methods=["GET"], response_class=Response)
        return router

    async def on_startup(self, app: object) -> None:
        self._ignore = self._listen(self._metrics.take)
        if self._services is not None:
            self._metrics.show(await self._services.figures())

    async def on_shutdown(self, app: object) -> None:
        self._ignore()

    async def metrics(self) -> Response:
        """Return all metrics."""
        if self._services is not None:
            self._metrics.show(await self._services.figures())
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)


def get_extension() -> Extension:
    """Return the extension."""
    return Observability()
