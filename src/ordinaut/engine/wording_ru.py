"""Schedules in Russian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ordinaut.engine.days import Freq
from ordinaut.engine.wording import Wording

# "каждый", then the noun for 1, for 2 to 4, and for 5 and more.
_UNITS = (
    ("каждый", "год", "года", "лет"),
    ("каждый", "месяц", "месяца", "месяцев"),
    ("каждую", "неделю", "недели", "недель"),
    ("каждый", "день", "дня", "дней"),
    ("каждый", "час", "часа", "часов"),
    ("каждую", "минуту", "минуты", "минут"),
    ("каждую", "секунду", "секунды", "секунд"),
)
_GENITIVE = (
    *("января", "февраля", "марта", "апреля", "мая", "июня", "июля"),
    *("августа", "сентября", "октября", "ноября", "декабря"),
)
_ACCUSATIVE = ("понедельник", "вторник", "среду", "четверг", "пятницу", "субботу", "воскресенье")
_GENDERS = "mmfmffn"
_ORDINALS = {
    1: {"m": "первый", "f": "первую", "n": "первое"},
    2: {"m": "второй", "f": "вторую", "n": "второе"},
    3: {"m": "третий", "f": "третью", "n": "третье"},
    4: {"m": "четвёртый", "f": "четвёртую", "n": "четвёртое"},
    5: {"m": "пятый", "f": "пятую", "n": "пятое"},
    -1: {"m": "последний", "f": "последнюю", "n": "последнее"},
    -2: {"m": "предпоследний", "f": "предпоследнюю", "n": "предпоследнее"},
}
_ENDINGS = {"m": "й", "f": "ю", "n": "е"}


def form(number: int) -> int:
    """Return which of three noun forms goes with ``number``: 0 for 1, 21; 1 for 2, 24; 2 for 5."""
    if number % 10 == 1 and number % 100 != 11:
        return 0
    return 1 if 2 <= number % 10 <= 4 and not 12 <= number % 100 <= 14 else 2


class Russian(Wording):
    """Russian."""

    months = (
        *("январе", "феврале", "марте", "апреле", "мае", "июне", "июле"),
        *("августе", "сентябре", "октябре", "ноябре", "декабре"),
    )
    weekdays = (
        *("понедельникам", "вторникам", "средам", "четвергам"),
        *("пятницам", "субботам", "воскресеньям"),
    )
    phrases: ClassVar[Mapping[str, str]] = {
        "and": "и",
        "or": "или",
        "in_months": "в {}",
        "on_weekdays": "по {}",
        "of_month": "месяца",
        "of_year": "года",
        "last_day": "в последний день месяца",
        "last_workday": "в последний рабочий день месяца",
        "day_from_end": "за {} до последнего дня месяца",
        "year_day": "в {}-й день года",
        "year_day_from_end": "в {}-й день с конца года",
        "weeks": "на {}-й неделе года",
        "at": "в {}",
        "hour": "час {}",
        "minute": "минута {}",
        "second": "секунда {}",
        "hours": "часы {}",
        "minutes": "минуты {}",
        "seconds": "секунды {}",
        "only": "из них только {}",
        "until": "до {}",
        "from": "считая от {}",
        "also": "а также в {}",
        "more": "ещё {}",
        "except_dates": "кроме {}",
        "except_rule": "но не {}",
        "zone": "часовой пояс {}",
        "interval": "{}, по прошедшему времени, считая от {}",
        "intervals": "с интервалом {}",
        "working_days": "с понедельника по пятницу",
        "once": "Один раз, в {}",
        "event": "Когда приходит событие с темой {}",
        "event_if": "Когда приходит событие с темой {} и выполняется {}",
        "condition": "Когда {} становится истинным для результата пробы",
        "starts_at": "Не раньше {}.",
        "ends_at": "Не позже {}.",
        "gap_skip": "Время, пропущенное при переводе часов, не учитывается.",
        "fold_last": "Если при переводе часов время наступает дважды, считается второй раз.",
        "fold_both": "Если при переводе часов время наступает дважды, считаются оба раза.",
        "exclude_skip": "Не в дни календаря {}.",
        "exclude_next": "То, что выпадает на день календаря {}, переносится на ближайший свободный"
        " день после него.",
        "exclude_previous": "То, что выпадает на день календаря {}, переносится на ближайший"
        " свободный день до него.",
    }

    def every(self, number: int, unit: Freq) -> str:
        every_one, *forms = _UNITS[unit]
        if number == 1:
            return f"{every_one} {forms[0]}"
        return f"{every_one if form(number) == 0 else 'каждые'} {number} {forms[form(number)]}"

    def times(self, number: int) -> str:
        return f"всего {number} {('раз', 'раза', 'раз')[form(number)]}"

    def duration(self, number: int, unit: Freq) -> str:
        return f"{number} {_UNITS[unit][1:][form(number)]}"

    def nth_weekday(self, number: int, weekday: int) -> str:
        gender = _GENDERS[weekday]
        known = _ORDINALS.get(number, {}).get(gender)
        ordinal = known or f"{abs(number)}-{_ENDINGS[gender]}"
        where = "во" if number == 2 else "в"
        end = " с конца" if number < -2 else ""
        return f"{where} {ordinal} {_ACCUSATIVE[weekday]}{end}"

    def on_days(self, days: Sequence[int]) -> str:
        return f"{self.listed([f'{day}-го' for day in days])} числа"

    def dates(self, days: Sequence[int], months: Sequence[int]) -> str:
        names = self.listed([_GENITIVE[month - 1] for month in months])
        return f"{self.listed([f'{day}-го' for day in days])} {names}"

    def ordinal(self, number: int) -> str:
        if number < -2:
            return f"{-number}-й с конца"
        return _ORDINALS[number]["m"] if number in (-1, -2) else f"{number}-й"
