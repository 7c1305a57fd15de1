"""The application that the Celery workers of ``benchmarks.peers`` load: one job, no settings."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bench", broker=os.environ["CELERY_URL"], backend=os.environ["CELERY_URL"])


@app.task
def noop() -> None:
    """Do nothing."""
