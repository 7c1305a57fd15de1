"""What the expressions of a run see: ``params, steps, event, events, task, run``; ``probe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ordinaut.engine.attempt import Context
from ordinaut.engine.lengths import format_instant
from ordinaut.engine.outcome import RunInfo
from ordinaut.engine.steps import Step
from ordinaut.model import Json

NO_MORE: Context = MappingProxyType({})


class RunContext:
    """The context of one run; built only when an expression is evaluated.

    ``more`` are names that only some runs have.
    """

    __slots__ = ("_built", "_event", "_events", "_more", "_params", "_run", "steps")

    def __init__(
        self,
        run: RunInfo,
        params: Mapping[str, Json],
        *,
        event: Json = None,
        events: Sequence[Json] | None = None,
        more: Context = NO_MORE,
    ) -> None:
        """``events`` are those that started the run together; ``event`` alone if not given."""
        self._run = run
        self._params = params
        self._event = event
        self._events = ([] if event is None else [event]) if events is None else events
        self._more = more
        self.steps: dict[str, Json] = {}
        self._built: dict[str, Json] | None = None

    def remember(self, step: Step, output: Json) -> None:
        """Let later expressions see the output of a step."""
        self.steps[step.id] = output
        if step.save_as is not None:
            self.steps[step.save_as] = output

    def see(self, probe: Json) -> None:
        """Let expressions see the result of a probe."""
        self._more = {"probe": probe}
        self._built = None

    def view(self, extra: Context | None = None) -> Context:
        """Return the context, with ``item``, ``index`` or ``error`` where there are such."""
        built = self._built
        if built is None:
            built = self._built = self._build()
        return built if extra is None else {**built, **extra}

    def _build(self) -> dict[str, Json]:
        run = self._run
        at = run.scheduled_for
        return {
            "params": self._params,
            "steps": self.steps,
            "event": self._event,
            "events": self._events,
            "task": {"id": str(run.task_id), **run.task},
            "run": {
                "id": str(run.run_id),
                "attempt": run.attempt,
                "trigger": run.trigger,
                "scheduled_for": None if at is None else format_instant(at),
            },
            **self._more,
        }
