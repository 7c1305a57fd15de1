"""What all languages of schedule explanations can say; one module each fills it in.

A language is a table of phrases and three rules: how a number and a noun agree, how ordinals
are written, and how weekdays are declined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ordinaut.engine.days import Freq


class Wording(ABC):
    """The phrases of one language; ``{}`` marks where a value goes."""

    phrases: ClassVar[Mapping[str, str]]
    months: ClassVar[Sequence[str]]
    weekdays: ClassVar[Sequence[str]]

    def say(self, key: str, *values: object) -> str:
        """Return a phrase with its values filled in."""
        return self.phrases[key].format(*values)

    def listed(self, items: Sequence[str], word: str = "and") -> str:
        """Return ``a, b and c``."""
        if len(items) < 2:
            return "".join(items)
        return f"{', '.join(items[:-1])} {self.phrases[word]} {items[-1]}"

    def numbers(self, values: Sequence[int]) -> str:
        """Return numbers with runs of three and more as a span: ``0, 5 and 9–17``."""
        runs: list[list[int]] = []
        for value in sorted(values):
            if runs and value == runs[-1][-1] + 1:
                runs[-1].append(value)
            else:
                runs.append([value])
        shown: list[str] = []
        for run in runs:
            shown += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else map(str, run)
        return self.listed(shown)

    def in_months(self, months: Sequence[int]) -> str:
        return self.say("in_months", self.listed([self.months[month - 1] for month in months]))

    def on_weekdays(self, weekdays: Sequence[int]) -> str:
        return self.say("on_weekdays", self.listed([self.weekdays[day] for day in weekdays]))

    @abstractmethod
    def every(self, number: int, unit: Freq) -> str:
        """Return ``every day``, ``every 2 weeks``."""

    @abstractmethod
    def times(self, number: int) -> str:
        """Return how often in all: ``3 times in all``."""

    @abstractmethod
    def duration(self, number: int, unit: Freq) -> str:
        """Return ``5 minutes``."""

    @abstractmethod
    def nth_weekday(self, number: int, weekday: int) -> str:
        """Return ``on the last Friday``."""

    @abstractmethod
    def on_days(self, days: Sequence[int]) -> str:
        """Return ``on the 1st and 15th``, for positive days of a month."""

    @abstractmethod
    def dates(self, days: Sequence[int], months: Sequence[int]) -> str:
        """Return ``on the 1st and 15th of May and June``."""

    @abstractmethod
    def ordinal(self, number: int) -> str:
        """Return a position, from the end if negative: ``2nd``, ``2nd from the end``."""
