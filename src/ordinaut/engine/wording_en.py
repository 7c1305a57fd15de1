"""Schedules in English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ordinaut.engine.days import Freq
from ordinaut.engine.wording import Wording

_UNITS = ("year", "month", "week", "day", "hour", "minute", "second")
_NAMED = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}


class English(Wording):
    """English, with British dates and a 24-hour clock."""

    months = (
        *("January", "February", "March", "April", "May", "June", "July"),
        *("August", "September", "October", "November", "December"),
    )
    weekdays = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    phrases: ClassVar[Mapping[str, str]] = {
        "and": "and",
        "or": "or",
        "in_months": "in {}",
        "on_weekdays": "on {}",
        "of_month": "of the month",
        "of_year": "of the year",
        "last_day": "on the last day of the month",
        "last_workday": "on the last working day of the month",
        "day_from_end": "{} before the last day of the month",
        "year_day": "on day {} of the year",
        "year_day_from_end": "on day {} from the end of the year",
        "weeks": "in week {} of the year",
        "at": "at {}",
        "hour": "hour {}",
        "minute": "minute {}",
        "second": "second {}",
        "hours": "hours {}",
        "minutes": "minutes {}",
        "seconds": "seconds {}",
        "only": "of these only the {}",
        "until": "until {}",
        "from": "counted from {}",
        "also": "and also at {}",
        "more": "{} more",
        "except_dates": "except {}",
        "except_rule": "but not {}",
        "zone": "time zone {}",
        "interval": "{}, counted in elapsed time from {}",
        "intervals": "at intervals of {}",
        "working_days": "from Monday to Friday",
        "once": "Once, at {}",
        "event": "When an event with the topic {} arrives",
        "event_if": "When an event with the topic {} arrives and {} holds",
        "condition": "When {} becomes true for the result of the probe",
        "starts_at": "Not before {}.",
        "ends_at": "Not after {}.",
        "gap_skip": "Times that a clock change leaves out are skipped.",
        "fold_last": "Of times that come twice in a clock change, the second counts.",
        "fold_both": "Times that come twice in a clock change count twice.",
        "exclude_skip": "Not on the days of the calendar {}.",
        "exclude_next": "What falls on a day of the calendar {} moves to the next free day.",
        "exclude_previous": "What falls on a day of the calendar {} moves to the free day before.",
    }

    def every(self, number: int, unit: Freq) -> str:
        return f"every {_UNITS[unit]}" if number == 1 else f"every {number} {_UNITS[unit]}s"

    def times(self, number: int) -> str:
        return "once in all" if number == 1 else f"{number} times in all"

    def duration(self, number: int, unit: Freq) -> str:
        return f"{number} {_UNITS[unit]}" if number == 1 else f"{number} {_UNITS[unit]}s"

    def nth_weekday(self, number: int, weekday: int) -> str:
        return f"on the {self._position(number)} {self.weekdays[weekday]}"

    def on_days(self, days: Sequence[int]) -> str:
        return f"on the {self.listed([self.ordinal(day) for day in days])}"

    def dates(self, days: Sequence[int], months: Sequence[int]) -> str:
        names = self.listed([self.months[month - 1] for month in months])
        return f"{self.on_days(days)} of {names}"

    def ordinal(self, number: int) -> str:
        if number == -1:
            return "last"
        size = abs(number)
        teens = 11 <= size % 100 <= 13
        ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(size % 10, "th")
        return f"{size}{ending}" if number > 0 else f"{size}{ending} from the end"

    def _position(self, number: int) -> str:
        if number < -1:
            return f"{_NAMED.get(-number, self.ordinal(-number))}-to-last"
        return _NAMED.get(number, self.ordinal(number))
