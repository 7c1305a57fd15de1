"""Stored values as the answers show them; the models of the answers say the same in OpenAPI."""

from __future__ import annotations

from typing import Any

from ordinaut.model import StepRecord
from ordinaut.store.runlog import Line
from ordinaut.store.runs import Run
from ordinaut.store.tasks import TaskRecord


def task(record: TaskRecord) -> dict[str, Any]:
    """Write a task (:class:`ordinaut.api.schemas.tasks.TaskOut`)."""
    own, when = record.task, record.task.schedule
    return {
        "id": own.id,
        "version": own.version,
        "status": own.status,
        "title": own.title,
        "description": own.description,
        "schedule_kind": when.kind,
        "schedule_expr": when.expr,
        "timezone": when.timezone,
        "starts_at": when.starts_at,
        "ends_at": when.ends_at,
        "dst_gap": when.dst_gap,
        "dst_fold": when.dst_fold,
        "exclude": when.exclude,
        "on_excluded": when.on_excluded,
        "max_runs": own.max_runs,
        "jitter_seconds": own.jitter_seconds,
        "catchup": own.catchup,
        "catchup_window_seconds": own.catchup_window_seconds,
        "overlap": own.overlap,
        "payload": own.payload,
        "priority": own.priority,
        "dedupe_key": own.dedupe_key,
        "dedupe_window_seconds": own.dedupe_window_seconds,
        "max_retries": own.max_retries,
        "backoff_strategy": own.backoff_strategy,
        "backoff_seconds": own.backoff_seconds,
        "timeout_seconds": own.timeout_seconds,
        "concurrency_key": own.concurrency_key,
        "max_concurrency": own.max_concurrency,
        "rate_limit": own.rate_limit,
        "retention_days": own.retention_days,
        "event_window": own.event_window,
        "labels": own.labels,
        "created_by": own.created_by,
        "created_at": own.created_at,
        "updated_at": own.updated_at,
        "next_run_at": own.next_run_at,
        "fired": record.fired,
        "last_run": record.last_run,
        "condition": _condition(record),
    }


def _condition(record: TaskRecord) -> dict[str, Any] | None:
    state = record.condition
    if state is None:
        return None
    polls = record.task.status == "active"  # the row itself learns it when the next poll is due
    return {
        "holds": state.holds,
        "since": state.since,
        "polled_at": state.polled_at,
        "next_poll_at": state.next_poll_at if polls else None,
        "fired_at": state.fired_at,
        "failures": state.failures,
        "failing_since": state.failing_since,
        "error": state.error,
    }


def run(one: Run) -> dict[str, Any]:
    """Write a run (:class:`ordinaut.api.schemas.runs.RunOut`)."""
    added = one.payload if isinstance(one.payload, dict) else {}
    return {
        "id": one.id,
        "task_id": one.task_id,
        "task_title": one.task_title,
        "task_version": one.task_version,
        "status": one.status,
        "trigger": one.trigger,
        "attempt": one.attempt,
        "scheduled_for": one.scheduled_for,
        "run_at": one.run_at,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "worker_id": one.worker_id,
        "params": added.get("params"),
        "event": added.get("event"),
        "events": added.get("events"),
        "probe": added.get("probe"),
        "output": one.output,
        "error": one.error,
        "wait": one.wait if one.status == "waiting" else None,
        "cancel_requested": one.cancel_requested,
        "progress": one.progress,
    }


def step(one: StepRecord) -> dict[str, Any]:
    """Write a checkpoint (:class:`ordinaut.api.schemas.runs.StepOut`)."""
    return {
        "id": one.step_id,
        "index": one.index,
        "uses": one.uses,
        "status": one.status,
        "attempt": one.attempt,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "output": one.output,
        "error": one.error,
    }


def line(one: Line) -> dict[str, Any]:
    """Write a line of a run (:class:`ordinaut.api.schemas.runs.LineOut`)."""
    return {
        "at": one.at,
        "level": one.level,
        "step_id": one.step_id,
        "index": one.index,
        "message": one.message,
        "fields": one.fields,
    }
