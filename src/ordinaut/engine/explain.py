"""Schedules in plain words: English, Romanian, Russian.

One sentence says when, further sentences say what limits it. The words of each language are in
``wording_en``, ``wording_ro`` and ``wording_ru``; here is only the order of the thoughts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from ordinaut.engine import cron, rrule_text, rruler
from ordinaut.engine.days import LAST_WORKDAY, DayPattern, DayTimes, Freq
from ordinaut.engine.duration import duration_parts
from ordinaut.engine.localtime import DAY, HOUR, MINUTE, Zone, parse_time, to_utc, wall_of, zone
from ordinaut.engine.rrule_parts import Rule, Stamp
from ordinaut.engine.rrule_text import Recurrence
from ordinaut.engine.rruler import Start
from ordinaut.engine.schedule import compile_schedule, event_topic
from ordinaut.engine.wording import Wording
from ordinaut.engine.wording_en import English
from ordinaut.engine.wording_ro import Romanian
from ordinaut.engine.wording_ru import Russian
from ordinaut.model import Schedule

Language: TypeAlias = Literal["en", "ro", "ru"]

LANGUAGES: dict[Language, Wording] = {"en": English(), "ro": Romanian(), "ru": Russian()}

# More times of day, or dates, than this are summed up instead of listed.
_MAX_TIMES = 6
_MAX_DATES = 5
_WORKING_DAYS = [0, 1, 2, 3, 4]
_UNITS = {
    "weeks": Freq.WEEKLY,
    "days": Freq.DAILY,
    "hours": Freq.HOURLY,
    "minutes": Freq.MINUTELY,
    "seconds": Freq.SECONDLY,
}
_PACES = (Freq.SECONDLY, Freq.MINUTELY, Freq.HOURLY, Freq.DAILY)


def explain(schedule: Schedule, *, lang: Language = "en") -> str:
    """Return what a schedule says; raises InvalidSchedule when it can not be understood."""
    compile_schedule(schedule._replace(exclude=()))
    words = LANGUAGES[lang]
    local = zone(schedule.timezone)
    sentences = [_when(schedule, local, words), *_limits(schedule, local, words)]
    return " ".join(sentences)


def _when(schedule: Schedule, local: Zone, words: Wording) -> str:
    match schedule.kind:
        case "rrule":
            said = _recurrence(schedule, local, words)
        case "cron":
            said = _cron(cron.parse(schedule.expr), words)
        case "interval":
            start = _shown(schedule.starts_at or schedule.anchor, local)
            said = words.say("interval", _interval(schedule.expr, words), start)
        case "once":
            moment = parse_time(schedule.expr)
            said = words.say("once", _shown(moment, local))
        case "event":
            topic, condition = event_topic(schedule.expr)
            said = words.say("event_if" if condition else "event", f'"{topic}"', f'"{condition}"')
        case "condition":
            said = words.say("condition", f'"{schedule.expr.strip()}"')
    if schedule.kind not in ("event", "condition"):
        said = f"{said}, {words.say('zone', _zone_name(schedule, local))}"
    return f"{said[0].upper()}{said[1:]}."


def _zone_name(schedule: Schedule, local: Zone) -> str:
    if schedule.kind != "rrule":
        return local.name
    start = rrule_text.parse(schedule.expr).start
    return local.name if start is None else "UTC" if start.utc else start.zone or local.name


def _limits(schedule: Schedule, local: Zone, words: Wording) -> Iterator[str]:
    if schedule.starts_at is not None and schedule.kind != "interval":
        yield words.say("starts_at", _shown(schedule.starts_at, local))
    if schedule.ends_at is not None:
        yield words.say("ends_at", _shown(schedule.ends_at, local))
    if schedule.dst_gap == "skip":
        yield words.say("gap_skip")
    if schedule.dst_fold != "first":
        yield words.say(f"fold_{schedule.dst_fold}")
    if schedule.exclude:
        names = words.listed([f'"{name}"' for name in schedule.exclude], "or")
        yield words.say(f"exclude_{schedule.on_excluded}", names)


def _recurrence(schedule: Schedule, local: Zone, words: Wording) -> str:
    found = rrule_text.parse(schedule.expr)
    start = rruler.start_of(found, local, schedule.starts_at, schedule.anchor)
    said = "; ".join(_rule(rule, start, words) for rule in found.rules)
    extra = found.extra if found.rules or found.start is None else (found.start, *found.extra)
    if extra:
        dates = _dates(extra, words)
        said = f"{said}, {words.say('also', dates)}" if said else words.say("at", dates)
    return said + _without(found, start, words)


def _without(found: Recurrence, start: Start, words: Wording) -> str:
    said = "".join(f", {words.say('except_rule', _rule(r, start, words))}" for r in found.without)
    if found.removed:
        said += f", {words.say('except_dates', _dates(found.removed, words))}"
    return said


def _rule(rule: Rule, start: Start, words: Wording) -> str:
    clauses = [words.every(rule.interval, rule.freq)]
    pattern = rruler.pattern_of(rule, start)
    clauses += _days(pattern, words)
    if rule.freq <= Freq.DAILY:
        clauses += [_clock(pattern.times, words)]
    else:
        told = {"hours": rule.hours, "minutes": rule.minutes, "seconds": rule.seconds}
        clauses += _filters(told, words)
    if rule.positions:
        positions = sorted(rule.positions, key=lambda position: (position < 0, abs(position)))
        clauses.append("– " + words.say("only", words.listed([*map(words.ordinal, positions)])))
    return _ended(" ".join(filter(None, clauses)), rule, start, words)


def _ended(said: str, rule: Rule, start: Start, words: Wording) -> str:
    if rule.interval > 1:
        first = wall_of(rruler.defaults_of(rule, start).replace(tzinfo=None))
        said += f", {words.say('from', _wall(first, rule.freq <= Freq.DAILY))}"
    if rule.count is not None:
        said += f", {words.times(rule.count)}"
    if rule.until is not None:
        said += f", {words.say('until', _stamp(rule.until))}"
    return said


def _days(pattern: DayPattern, words: Wording) -> list[str]:
    """Return what is said of the days: weeks, months, days of the year, month and week."""
    said = [words.say("weeks", words.numbers(sorted(pattern.week_numbers)))]
    said = said if pattern.week_numbers else []
    by_year = pattern.freq == Freq.YEARLY and not pattern.months
    positive = sorted(day for day in pattern.year_days if day > 0)
    negative = sorted(-day for day in pattern.year_days if day < 0)
    said += [words.say("year_day", words.numbers(positive))] if positive else []
    said += [words.say("year_day_from_end", words.numbers(negative))] if negative else []
    month_days = _month_days(pattern.month_days, words)
    weekdays = _weekdays(pattern.weekdays, words, by_year=by_year)
    if month_days and weekdays and pattern.either:
        said.append(words.listed([month_days, weekdays], "or"))
    else:
        said += filter(None, [month_days, weekdays])
    if pattern.months and said == [month_days] and min(pattern.month_days) > 0:
        return [words.dates(sorted(pattern.month_days), sorted(pattern.months))]
    if pattern.months:
        said.append(words.in_months(sorted(pattern.months)))
    return said


def _month_days(days: frozenset[int], words: Wording) -> str:
    positive = sorted(day for day in days if day > 0)
    said = [words.on_days(positive)] if positive else []
    before = [words.duration(-day - 1, Freq.DAILY) for day in sorted(days) if day < -1]
    said += [words.say("day_from_end", distance) for distance in before]
    said += [words.say("last_day")] if -1 in days else []
    said += [words.say("last_workday")] if LAST_WORKDAY in days else []
    return words.listed(said)


def _weekdays(days: frozenset[tuple[int, int]], words: Wording, *, by_year: bool) -> str:
    plain = sorted(weekday for number, weekday in days if number == 0)
    numbered = sorted((pair for pair in days if pair[0]), key=_positive_first)
    said = [words.on_weekdays(plain)] if plain else []
    if plain == _WORKING_DAYS:
        said = [words.say("working_days")]
    said += [words.nth_weekday(number, weekday) for number, weekday in numbered]
    if numbered:
        said[-1] += f" {words.say('of_year' if by_year else 'of_month')}"
    return words.listed(said)


def _positive_first(pair: tuple[int, int]) -> tuple[bool, int, int]:
    number, weekday = pair
    return number < 0, abs(number), weekday


def _clock(times: DayTimes, words: Wording) -> str:
    if len(times) <= _MAX_TIMES:
        return words.say("at", words.listed([_time(time) for time in times]))
    told = {"hours": times.hours, "minutes": times.minutes}
    if times.seconds != (0,):
        told["seconds"] = times.seconds
    return "".join(_filters(told, words))


def _filters(told: Mapping[str, Sequence[int]], words: Wording) -> list[str]:
    """Return what is said of hours, minutes and seconds, in parentheses, if anything."""
    said = []
    for name in ("hours", "minutes", "seconds"):
        if values := told.get(name):
            key = name if len(values) > 1 else name.removesuffix("s")
            said.append(words.say(key, words.numbers(values)))
    return [f"({'; '.join(said)})"] if said else []


def _cron(found: cron.Cron, words: Wording) -> str:
    pattern = cron.pattern_of(found)
    days = _days(pattern, words)
    if found.fixed:
        return " ".join([*(days or [words.every(1, Freq.DAILY)]), _clock(pattern.times, words)])
    fields = (
        ("seconds", found.seconds, 60),
        ("minutes", found.minutes, 60),
        ("hours", found.hours, 24),
    )
    pace = next((i for i, (_, values, _) in enumerate(fields) if len(values) > 1), len(fields) - 1)
    step = _step(fields[pace][1], fields[pace][2])
    # Finer fields than the pace have one value, and coarser ones are worth a word if not full.
    told = {
        name: values
        for index, (name, values, size) in enumerate(fields)
        if (index < pace and values != (0,))
        or (index == pace and step is None)
        or (index > pace and len(values) < size)
    }
    every = words.every(step, _PACES[pace]) if step else words.every(1, _PACES[pace + 1])
    return " ".join([every, *_filters(told, words), *days])


def _step(values: Sequence[int], size: int) -> int | None:
    """Return n when the values are every n-th from 0 on, all through the field."""
    step = values[1] - values[0] if len(values) > 1 else size
    regular = size % step == 0 and tuple(values) == tuple(range(0, size, step))
    return step if regular else None


def _interval(text: str, words: Wording) -> str:
    parts = {unit: number for unit, number in duration_parts(text).items() if number}
    if len(parts) == 1:
        ((unit, number),) = parts.items()
        return words.every(number, _UNITS[unit])
    said = [words.duration(number, _UNITS[unit]) for unit, number in parts.items()]
    return words.say("intervals", words.listed(said))


def _dates(stamps: Sequence[Stamp], words: Wording) -> str:
    said = [_stamp(stamp) for stamp in stamps[:_MAX_DATES]]
    left = len(stamps) - len(said)
    return words.listed([*said, words.say("more", left)] if left else said)


def _stamp(stamp: Stamp) -> str:
    suffix = " UTC" if stamp.utc else f" {stamp.zone}" if stamp.zone else ""
    return _wall(stamp.wall, stamp.is_date) + suffix


def _wall(wall: int, date_only: bool) -> str:
    moment = to_utc(wall)
    return f"{moment:%Y-%m-%d}" if date_only else f"{moment:%Y-%m-%d} {_time(wall % DAY)}"


def _shown(moment: datetime, local: Zone) -> str:
    """Return a moment as the clock shows it, in the schedule's zone."""
    there = moment.astimezone(local.info) if moment.tzinfo else moment
    return f"{there:%Y-%m-%d} {_time(there.hour * HOUR + there.minute * MINUTE + there.second)}"


def _time(seconds: int) -> str:
    hour, rest = divmod(seconds, HOUR)
    minute, second = divmod(rest, MINUTE)
    return f"{hour:02}:{minute:02}:{second:02}" if second else f"{hour:02}:{minute:02}"
