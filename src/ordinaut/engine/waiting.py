"""``wait_for``: what a step waits for, and how that is asked for and answered.

The record of a waiting step holds the question in its output (``{"wait": …}``, status
``waiting``). Whoever answers it sets the record to ``succeeded`` with the answer as output: the
event, or ``{"approved": true, …}``. A time needs no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ordinaut.engine import values
from ordinaut.engine.lengths import FORMS, format_instant, parse_duration, parse_instant
from ordinaut.engine.nearest import hint
from ordinaut.engine.scope import Scope
from ordinaut.engine.steps import Step, WaitFor, WaitKind
from ordinaut.engine.template import Condition, Template, parse_condition, parse_template
from ordinaut.engine.tool import NotYet
from ordinaut.errors import (
    FieldProblem,
    InvalidInput,
    StepError,
    StepTimeout,
    WaitRefused,
)
from ordinaut.model import Json, StepRecord

MAX_WAIT = timedelta(days=3660)
MAX_MESSAGE = 4096

_SCOPE = re.compile(r"[a-z][a-z0-9_.-]{0,62}(:[a-z0-9_.-]{1,63}){0,2}")
_KEYS = {
    "duration": (),
    "instant": (),
    "until": (),
    "event": ("filter", "timeout"),
    "approval": ("message", "scope", "timeout"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One question of a suspended run; ``step_id`` and ``index`` are those of its record.

    ``until`` is the instant the run goes on (kind ``until``) or gives up (``None``: never).
    """

    step_id: str
    kind: WaitKind
    until: datetime | None = None
    topic: str | None = None
    filter: str | None = None
    message: str | None = None
    scope: str | None = None
    index: int | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the question as its record keeps it."""
        given = {
            "kind": self.kind,
            "until": None if self.until is None else format_instant(self.until),
            "topic": self.topic,
            "filter": self.filter,
            "message": self.message,
            "scope": self.scope,
            "index": self.index,
        }
        return {key: value for key, value in given.items() if value is not None}


def parse_wait(raw: Json, path: str, *, scope: Scope) -> WaitFor:
    """Parse ``wait_for``; raise :class:`InvalidInput`. Unknown names are problems of ``scope``."""
    return _WaitParser(scope, path).parse(raw)


class _WaitParser:
    def __init__(self, scope: Scope, path: str) -> None:
        self._scope = scope
        self._path = path

    def parse(self, raw: Json) -> WaitFor:
        if isinstance(raw, str):
            if raw.strip() == "approval":
                return WaitFor(kind="approval", path=self._path)
            return self._until(raw, self._path)
        kind, given, options = self._split(raw)
        if kind == "event":
            return self._event(given, options)
        if kind == "approval":
            return self._approval(given, options)
        return self._until(given, f"{self._path}.{kind}")

    def _split(self, raw: Json) -> tuple[str, Json, dict[str, Json]]:
        """Return the kind of waiting, what is said about it, and its options.

        ``{"event": "mail.*", "timeout": "1d"}`` and ``{"event": {"topic": …, "timeout": …}}``
        are the same.
        """
        if not isinstance(raw, dict):
            raise self._wrong(f"it is an object or a text, not {values.kind_of(raw)}")
        kinds = [key for key in raw if key in _KEYS]
        if len(kinds) != 1:
            raise self._wrong(f"it has exactly one of {', '.join(_KEYS)}")
        kind, inner = kinds[0], raw[kinds[0]]
        options = {key: value for key, value in raw.items() if key != kind}
        if isinstance(inner, dict):
            options |= inner
            inner = options.pop("topic", None) if kind == "event" else None
        for key in options:
            if key not in _KEYS[kind]:
                raise self._wrong(f"unknown key {key[:64]!r}{hint(key, _KEYS[kind])}")
        return kind, inner, options

    def _until(self, raw: Json, path: str) -> WaitFor:
        if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 <= raw < 1e10:
            raw = f"{raw * 1000:.0f}ms"
        return WaitFor(kind="until", path=path, until=self._time(raw, path))

    def _time(self, raw: Json, path: str) -> Template:
        template = self._text(raw, path)
        if template.constant and _length_or_instant(str(template.source)) is None:
            raise _invalid(path, f"it is a duration {FORMS}, or an instant with its offset")
        return template

    def _event(self, topic: Json, options: Mapping[str, Json]) -> WaitFor:
        if topic is None or topic == "":
            raise self._wrong("an event has a topic")
        return WaitFor(
            kind="event",
            path=self._path,
            topic=self._text(topic, f"{self._path}.event"),
            filter=self._filter(options),
            timeout=self._timeout(options),
        )

    def _approval(self, given: Json, options: Mapping[str, Json]) -> WaitFor:
        message = options.get("message", given if isinstance(given, str) else None)
        if given not in (None, True) and not isinstance(given, str):
            raise self._wrong("approval is an object, a message or true")
        scope = options.get("scope")
        if scope is not None and not (isinstance(scope, str) and _SCOPE.fullmatch(scope)):
            raise self._wrong("the scope of an approval is a word, such as pay or runs:write")
        return WaitFor(
            kind="approval",
            path=self._path,
            message=None if message is None else self._text(message, f"{self._path}.message"),
            scope=scope,
            timeout=self._timeout(options),
        )

    def _filter(self, options: Mapping[str, Json]) -> Condition | None:
        raw = options.get("filter")
        # The filter is evaluated over the event alone, by whoever receives it.
        return None if raw is None else parse_condition(raw, path=f"{self._path}.filter")

    def _timeout(self, options: Mapping[str, Json]) -> Template | None:
        raw = options.get("timeout")
        return None if raw is None else self._time(raw, f"{self._path}.timeout")

    def _text(self, raw: Json, path: str) -> Template:
        if not isinstance(raw, str):
            raise _invalid(path, f"it is a text, not {values.kind_of(raw)}")
        template = parse_template(raw, path=path)
        for slot in template.slots:
            self._scope.check(slot.expression, slot.path)
        return template

    def _wrong(self, message: str) -> InvalidInput:
        return _invalid(self._path, message)


def _invalid(path: str, message: str) -> InvalidInput:
    return InvalidInput(message, problems=(FieldProblem(path, message),))


def _length_or_instant(text: str) -> timedelta | datetime | None:
    length = parse_duration(text)
    if length is not None:
        return length if length <= MAX_WAIT else None
    return parse_instant(text)


def ask(step: Step, context: Mapping[str, Json], *, now: datetime) -> Wait:
    """Render the question of a step that begins to wait."""
    assert step.wait_for is not None
    wait = step.wait_for
    return Wait(
        step_id=step.wait_id,
        kind=wait.kind,
        until=_instant(wait.until or wait.timeout, context, wait=wait, now=now),
        topic=_rendered(wait.topic, context, now=now),
        filter=None if wait.filter is None else wait.filter.text,
        message=_rendered(wait.message, context, now=now),
        scope=wait.scope,
    )


def _rendered(
    template: Template | None, context: Mapping[str, Json], *, now: datetime
) -> str | None:
    if template is None:
        return None
    value = template.render(context, now=now)
    if not isinstance(value, str):
        raise StepError(f"{template.path}: it is {values.kind_of(value)}, not a text",
                        path=template.path)  # fmt: skip
    return value[:MAX_MESSAGE]


def _instant(
    template: Template | None, context: Mapping[str, Json], *, wait: WaitFor, now: datetime
) -> datetime | None:
    text = _rendered(template, context, now=now)
    if text is None:
        return None
    found = _length_or_instant(text)
    if found is None:
        message = f"{text[:100]!r} is neither a duration {FORMS} nor an instant with its offset"
        raise StepError(f"{wait.path}: {message}", path=wait.path)
    return now + found if isinstance(found, timedelta) else found


def question(wait: Wait, *, attempt: int, now: datetime) -> StepRecord:
    """Return the record of a step that begins to wait."""
    output = {"wait": wait.to_json()}
    return StepRecord(wait.step_id, "waiting", attempt, now, None, output=output)


def is_due(wait: Wait, step: Step, *, now: datetime) -> bool:
    """Tell whether the time has come; an event or approval that did not come in time raises."""
    if wait.until is None or wait.until > now:
        return False
    if wait.kind != "until":
        at = format_instant(wait.until)
        raise WaitRefused(f"{step.path}: the {wait.kind} did not come before {at}")
    return True


def for_run(step: Step, index: int | None, error: NotYet, *, now: datetime) -> Wait:
    """Return what a step waits for whose tool waits for another run.

    Nothing answers it: the call is made again ``until`` then. The time of the step goes on.
    """
    until = error.until
    if step.timeout_seconds is not None:
        end = error.since + timedelta(seconds=step.timeout_seconds)
        if end <= now:
            raise StepTimeout(f"{error.message} for more than {step.timeout_seconds:g} s")
        until = min(until, end)
    return Wait(step_id=step.id, index=index, kind="run", until=until, message=error.message)


def checked_answer(step: Step, record: StepRecord) -> StepRecord:
    """Return the record of a waiting that was answered; a rejection raises."""
    answer = record.output
    assert step.wait_for is not None
    if step.wait_for.kind == "approval" and isinstance(answer, dict) and not answer.get("approved"):
        raise refusal(answer, path=step.path)
    return record


def refusal(answer: Mapping[str, Json], *, path: str) -> WaitRefused:
    """Return the failure that says who rejected what was asked at ``path``, and why."""
    by, note = answer.get("by"), answer.get("note")
    message = f"{path}: it was rejected"
    message += f" by {by}" if by else ""
    message += f": {note}" if note else ""
    return WaitRefused(message, details={**answer})


def is_stale(record: StepRecord, *, after: StepRecord | None) -> bool:
    """Tell whether a question was refused already: a run that is retried then asks anew."""
    if after is None or not isinstance(after.error, dict):
        return False
    return after.error.get("code") == WaitRefused.code and record.attempt <= after.attempt


def asked_again(record: StepRecord) -> Wait:
    """Return the question that a waiting record keeps."""
    question = record.output.get("wait") if isinstance(record.output, dict) else None
    given = dict(question) if isinstance(question, dict) else {}
    until = given.pop("until", None)
    return Wait(
        step_id=record.step_id,
        kind=given.get("kind", "approval"),
        until=parse_instant(until) if isinstance(until, str) else None,
        topic=given.get("topic"),
        filter=given.get("filter"),
        message=given.get("message"),
        scope=given.get("scope"),
        index=record.index,
    )
