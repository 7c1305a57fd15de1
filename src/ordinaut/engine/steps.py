"""A parsed pipeline: the values that :mod:`ordinaut.engine.pipeline` makes of a payload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from ordinaut.engine.expression import Expression
from ordinaut.engine.template import Condition, Template
from ordinaut.engine.tool import Tool
from ordinaut.model import Backoff, Json

OnError: TypeAlias = "Literal['fail', 'continue'] | Step"
ProbeMode: TypeAlias = Literal["edge", "level"]
WaitKind: TypeAlias = Literal["until", "event", "approval", "effect_unknown", "run"]


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How the pause before the next attempt grows; ``None`` leaves a part to the task."""

    strategy: Backoff | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Foreach:
    """The items a step runs for: an expression that yields an array, or an array of templates."""

    items: Expression | Template
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFor:
    """What a step waits for before it goes on.

    ``until`` (a duration or an instant) for kind ``until``; ``topic`` and ``filter`` for
    ``event``; ``message`` and ``scope`` for ``approval``. ``timeout`` ends the waiting for an
    event or an approval with a failure.
    """

    kind: WaitKind
    path: str
    until: Template | None = None
    topic: Template | None = None
    filter: Condition | None = None
    message: Template | None = None
    scope: str | None = None
    timeout: Template | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. Exactly one of ``uses`` and ``parallel`` is set, or ``wait_for`` alone.

    ``checked`` is the tool whose schema the constant ``arguments`` were found valid against
    when the pipeline was parsed, so that they are not validated again in each run.
    """

    id: str
    path: str
    uses: str | None = None
    arguments: Template | None = None
    checked: Tool | None = None
    save_as: str | None = None
    condition: Condition | None = None
    timeout_seconds: float | None = None
    max_retries: int | None = None
    backoff: BackoffPolicy | None = None
    foreach: Foreach | None = None
    max_parallel: int = 1
    parallel: tuple[Step, ...] = ()
    on_error: OnError = "fail"
    wait_for: WaitFor | None = None

    @property
    def needs_context(self) -> bool:
        """Whether its arguments are rendered from anything."""
        return self.arguments is not None and not self.arguments.constant

    @property
    def wait_id(self) -> str:
        """The id under which the waiting is recorded, apart from a call that follows it."""
        return f"{self.id}:wait" if self.uses or self.parallel else self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a condition task polls: the call of a tool ``every`` so many seconds.

    ``edge`` fires when the condition becomes true, ``level`` at each poll at which it is true;
    either rests for ``cooldown`` seconds after it has fired.
    """

    call: Step
    every: float
    mode: ProbeMode = "edge"
    cooldown: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline that has passed every static check, ready to be executed any number of times."""

    params: Mapping[str, Json]
    steps: tuple[Step, ...]
    probe: Probe | None = None
    output: Template | None = None
    secrets: Mapping[str, str] = MappingProxyType({})  # each by name, with its first place

    def since(self, step_id: str) -> frozenset[str] | None:
        """Return the ids of the records of a step and of all that comes after it.

        A member of a group takes its group along but not the other members; the handler of a
        failure takes the step that failed along. ``None``: there is no such step.
        """
        for place, step in enumerate(self.steps):
            found = _since(step, step_id)
            if found is not None:
                return found.union(*(_records(later) for later in self.steps[place + 1 :]))
        return None

    def named_secrets(self) -> dict[str, str]:
        """Return the names of the secrets that arguments ask for, each with its first place."""
        found: dict[str, str] = {}
        for step in self.calls():
            for slot in () if step.arguments is None else step.arguments.slots:
                for name in slot.expression.secrets:
                    found.setdefault(name, slot.path)
        return found

    def calls(self) -> Iterator[Step]:
        """Yield the call of the probe, if there is one, and every step."""
        if self.probe is not None:
            yield self.probe.call
        yield from self.walk()

    def walk(self) -> Iterator[Step]:
        """Yield every step, with those inside of parallel groups and error handlers."""
        pending = list(reversed(self.steps))
        while pending:
            step = pending.pop()
            yield step
            if isinstance(step.on_error, Step):
                pending.append(step.on_error)
            pending.extend(reversed(step.parallel))


def _since(step: Step, wanted: str) -> frozenset[str] | None:
    handler = step.on_error
    if step.id == wanted or (isinstance(handler, Step) and _since(handler, wanted)):
        return _records(step)
    for child in step.parallel:
        if (found := _since(child, wanted)) is not None:
            return found | {step.id}
    return None


def _records(step: Step) -> frozenset[str]:
    """Return the ids under which a step, its members and its handlers are recorded."""
    inner = (*step.parallel, *((step.on_error,) if isinstance(step.on_error, Step) else ()))
    return frozenset({step.id, step.wait_id}).union(*map(_records, inner))
