"""What the expressions of a run see: ``params, steps, event, events, task, run``; ``probe``."""

from __future__ import annotations

from collections.abc import Mapping

from ordinaut.engine.attempt import Context
from ordinaut.engine.lengths import format_instant
from ordinaut.engine.outcome import Run
from ordinaut.engine.steps import Pipeline, Step
from ordinaut.model import Json


class RunContext:
    """The context of one run; built only when an expression is evaluated."""

    __slots__ = ("_built", "_given", "_pipeline", "_run", "steps")

    def __init__(
        self,
        run: Run,
        pipeline: Pipeline,
        given: Mapping[str, Json],
        steps: dict[str, Json] | None = None,
    ) -> None:
        """``given`` is what the run was started with, as of :func:`executor.execute`.

        ``steps`` are their outputs by id and ``save_as``, which grow as the run goes on.
        """
        self._run = run
        self._pipeline = pipeline
        self._given = given
        self.steps = {} if steps is None else steps
        self._built: dict[str, Json] | None = None

    def see(self, probe: Json) -> None:
        """Let expressions see the result of a probe."""
        self._given = {**self._given, "probe": probe}
        self._built = None

    def view(self, extra: Context | None = None) -> Context:
        """Return the context, with ``item``, ``index`` or ``error`` where there are such."""
        built = self._built
        if built is None:
            built = self._built = self._build()
        return built if extra is None else {**built, **extra}

    def _build(self) -> dict[str, Json]:
        run, pipeline, given = self._run, self._pipeline, self._given
        at = run.scheduled_for
        event, events, params = given.get("event"), given.get("events"), given.get("params")
        built: dict[str, Json] = {
            "params": {**pipeline.params, **params} if params else pipeline.params,
            "steps": self.steps,
            "event": event,
            "events": ([] if event is None else [event]) if events is None else events,
            "task": {"id": str(run.task_id), **run.task},
            "run": {
                "id": str(run.run_id),
                "attempt": run.attempt,
                "trigger": run.trigger,
                "scheduled_for": None if at is None else format_instant(at),
            },
        }
        if pipeline.probe is not None:
            built["probe"] = given.get("probe")
        return built


def remember(outputs: dict[str, Json], step: Step, output: Json) -> None:
    """Let later expressions see the output of a step, by its id and ``save_as``."""
    outputs[step.id] = output
    if step.save_as is not None:
        outputs[step.save_as] = output
