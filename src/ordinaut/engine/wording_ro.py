"""Schedules in Romanian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ordinaut.engine.days import Freq
from ordinaut.engine.wording import Wording

# "în fiecare …", then the plural after a number.
_UNITS = (
    ("an", "ani"),
    ("lună", "luni"),
    ("săptămână", "săptămâni"),
    ("zi", "zile"),
    ("oră", "ore"),
    ("minut", "minute"),
    ("secundă", "secunde"),
)
_FEMININE = {
    1: "prima",
    2: "a doua",
    3: "a treia",
    4: "a patra",
    5: "a cincea",
    -1: "ultima",
    -2: "penultima",
}


def counted(number: int, noun: str) -> str:
    """Return a number above one with its noun: ``5 zile``, ``20 de zile``, ``101 zile``."""
    joint = " " if 1 <= number % 100 <= 19 else " de "
    return f"{number}{joint}{noun}"


class Romanian(Wording):
    """Romanian; all weekdays are feminine, and recurring ones carry the article."""

    months = (
        *("ianuarie", "februarie", "martie", "aprilie", "mai", "iunie", "iulie"),
        *("august", "septembrie", "octombrie", "noiembrie", "decembrie"),
    )
    weekdays = ("lunea", "marțea", "miercurea", "joia", "vinerea", "sâmbăta", "duminica")
    phrases: ClassVar[Mapping[str, str]] = {
        "and": "și",
        "or": "sau",
        "in_months": "în {}",
        "on_weekdays": "{}",
        "of_month": "din lună",
        "of_year": "din an",
        "last_day": "în ultima zi a lunii",
        "last_workday": "în ultima zi lucrătoare a lunii",
        "day_from_end": "cu {} înainte de ultima zi a lunii",
        "year_day": "în ziua {} a anului",
        "year_day_from_end": "în ziua {} de la sfârșitul anului",
        "weeks": "în săptămâna {} a anului",
        "at": "la {}",
        "hour": "ora {}",
        "minute": "minutul {}",
        "second": "secunda {}",
        "hours": "orele {}",
        "minutes": "minutele {}",
        "seconds": "secundele {}",
        "only": "dintre acestea doar {}",
        "until": "până la {}",
        "from": "numărând de la {}",
        "also": "și în plus la {}",
        "more": "încă {}",
        "except_dates": "cu excepția {}",
        "except_rule": "dar nu {}",
        "zone": "fusul orar {}",
        "interval": "{}, măsurând timpul scurs de la {}",
        "intervals": "la intervale de {}",
        "working_days": "de luni până vineri",
        "once": "O singură dată, la {}",
        "event": "Când sosește un eveniment cu subiectul {}",
        "event_if": "Când sosește un eveniment cu subiectul {} și {} este adevărat",
        "condition": "Când {} devine adevărat pentru rezultatul sondei",
        "starts_at": "Nu înainte de {}.",
        "ends_at": "Nu după {}.",
        "gap_skip": "Orele care lipsesc la schimbarea orei sunt sărite.",
        "fold_last": "Din orele care vin de două ori la schimbarea orei contează a doua.",
        "fold_both": "Orele care vin de două ori la schimbarea orei contează de două ori.",
        "exclude_skip": "Nu în zilele calendarului {}.",
        "exclude_next": "Ce cade într-o zi a calendarului {} se mută în următoarea zi liberă.",
        "exclude_previous": "Ce cade într-o zi a calendarului {} se mută în ziua liberă dinainte.",
    }

    def every(self, number: int, unit: Freq) -> str:
        one, many = _UNITS[unit]
        return f"în fiecare {one}" if number == 1 else f"la fiecare {counted(number, many)}"

    def times(self, number: int) -> str:
        return "o dată în total" if number == 1 else f"de {counted(number, 'ori')} în total"

    def duration(self, number: int, unit: Freq) -> str:
        one, many = _UNITS[unit]
        article = "un" if unit == Freq.MINUTELY else "o"
        return f"{article} {one}" if number == 1 else counted(number, many)

    def nth_weekday(self, number: int, weekday: int) -> str:
        bare = ("luni", "marți", "miercuri", "joi", "vineri", "sâmbătă", "duminică")[weekday]
        if number < -2:
            return f"în {self.ordinal(-number)} {bare} de la sfârșit"
        return f"în {self.ordinal(number)} {bare}"

    def on_days(self, days: Sequence[int]) -> str:
        return f"pe {self.listed([str(day) for day in days])}"

    def dates(self, days: Sequence[int], months: Sequence[int]) -> str:
        names = self.listed([self.months[month - 1] for month in months])
        return f"{self.on_days(days)} {names}"

    def ordinal(self, number: int) -> str:
        if number < -2:
            return f"{self.ordinal(-number)} de la sfârșit"
        return _FEMININE.get(number, f"a {number}-a")
