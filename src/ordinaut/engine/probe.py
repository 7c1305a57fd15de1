"""The probe of a condition task: how it is written, and what its result means.

::

    result ──schedule_expr──► holds? ──memory, mode, cool-down──► fire | suppress | nothing

The memory of a condition is one word, *armed*: it was false since it last was true, or nothing is
known of it yet. Becoming true uses it up, whether the task fires or may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from math import floor
from typing import get_args

from ordinaut.engine import values
from ordinaut.engine.expression import Expression, parse_expression
from ordinaut.engine.fields import Problems
from ordinaut.engine.lengths import FORMS, parse_duration
from ordinaut.engine.steps import Probe, ProbeMode, Step
from ordinaut.engine.template import Template, search, truth
from ordinaut.engine.tool import Tool
from ordinaut.model import Json

PROBE_KEYS = ("uses", "with", "every", "mode", "cooldown_seconds", "timeout_seconds")
MIN_EVERY = 1.0  # seconds
MAX_SECONDS = 366 * 86_400.0  # of every and of the cool-down
TIMEOUT_SECONDS = 30.0  # of a call, unless the probe says otherwise
MAX_TIMEOUT_SECONDS = 300.0  # a worker that died holds a poll for a little longer than that


def has_probe(raw: Json, path: str, *, problems: Problems) -> bool:
    """Tell whether there is a probe that can be read."""
    if isinstance(raw, dict):
        problems.unknown_keys(raw, PROBE_KEYS, path=path)
        return True
    if raw is not None:
        problems.add(path, f"a probe is an object, not {values.kind_of(raw)}")
    return False


def parse_probe(
    raw: Mapping[str, Json],
    path: str,
    *,
    problems: Problems,
    arguments: Template | None,
    checked: Tool | None,
) -> Probe | None:
    """Read a probe whose tool and arguments are read; None when there are problems."""
    if raw.get("uses") is None:
        problems.add(f"{path}.uses", "a probe names the tool that is polled")
    every = _every(raw.get("every"), f"{path}.every", problems)
    mode: ProbeMode = raw.get("mode", "edge")
    if mode not in get_args(ProbeMode):
        problems.add(f"{path}.mode", 'the mode is "edge" or "level"')
    cooldown = raw.get("cooldown_seconds")
    if cooldown is not None and not _is_seconds(cooldown):
        limit = f"{MAX_SECONDS:,.0f}"
        problems.add(f"{path}.cooldown_seconds", f"a number of seconds from 0 to {limit}")
        cooldown = None
    seconds = problems.number(raw, "timeout_seconds", path=path, limit=MAX_TIMEOUT_SECONDS)
    uses = raw.get("uses")
    if every is None or not isinstance(uses, str):
        return None
    call = Step(
        id="probe",
        path=path,
        uses=uses,
        arguments=arguments,
        checked=checked,
        timeout_seconds=seconds or TIMEOUT_SECONDS,
    )
    return Probe(call=call, every=every, mode=mode, cooldown=float(cooldown or 0))


def check_effect(tool: Tool | None, path: str, *, problems: Problems) -> None:
    """Refuse a tool that must not be called twice: a poll is repeated when its worker dies."""
    if tool is not None and tool.effect == "at_most_once":
        message = f'"{tool.name}" is at_most_once; a probe is called again and again'
        problems.add(f"{path}.uses", message)


def _every(raw: Json, path: str, problems: Problems) -> float | None:
    length = parse_duration(raw) if isinstance(raw, str) else None
    seconds = raw if length is None else length.total_seconds()
    if _is_seconds(seconds) and seconds >= MIN_EVERY:
        return float(seconds)
    problems.add(path, f"how often the probe is called: at least 1 second, {FORMS}")
    return None


def _is_seconds(value: Json) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_SECONDS


def holds(expr: str, result: Json, *, now: datetime) -> bool:
    """Tell whether a condition holds for the result of its probe.

    Raises :class:`~ordinaut.errors.TemplateError` where it can not be evaluated.
    """
    return truth(search(_parsed(expr), result, path="schedule_expr", now=now, strict=False))


@lru_cache(maxsize=1_024)
def _parsed(expr: str) -> Expression:
    return parse_expression(expr)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a poll leads to.

    ``suppressed`` says why an edge does not fire; ``armed`` is what is remembered of it.
    """

    fires: bool
    armed: bool
    suppressed: str | None = None


def judge(
    probe: Probe, held: bool, *, armed: bool, fired_at: datetime | None, now: datetime
) -> Judgement:
    """Decide what it means that the condition holds, or does not."""
    if not held:
        return Judgement(fires=False, armed=True)
    if not armed and probe.mode == "edge":
        return Judgement(fires=False, armed=False)
    passed = None if fired_at is None else (now - fired_at).total_seconds()
    if passed is not None and passed < probe.cooldown:
        # At each poll of a level there would be nothing new to say.
        reason = (
            f"it became true {passed:.0f} s after the task fired, within the cool-down of "
            f"{probe.cooldown:g} s"
        )
        return Judgement(fires=False, armed=False, suppressed=reason if armed else None)
    return Judgement(fires=True, armed=False)


def next_poll(due_at: datetime, every: float, *, now: datetime) -> datetime:
    """Return the first instant after ``now`` that lies a whole number of intervals after another.

    So polls keep their rhythm, and those that nobody was there for are left out.
    """
    passed = max(0.0, (now - due_at).total_seconds())
    following = due_at + timedelta(seconds=every * (floor(passed / every) + 1))
    return following if following > now else following + timedelta(seconds=every)
