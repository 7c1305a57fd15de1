"""Schedules in plain words, in three languages."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine.days import Freq
from ordinaut.engine.explain import LANGUAGES, explain
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule

CREATED = datetime(2027, 1, 5, 14, 23, 11, tzinfo=UTC)
DATA = Path(__file__).parents[2] / "data" / "explanations.json"
CASES = json.loads(DATA.read_text(encoding="utf-8"))["cases"]


def schedule_of(case: dict[str, Any]) -> Schedule:
    fields = {name: case[name] for name in ("dst_gap", "dst_fold", "on_excluded") if name in case}
    for name in ("starts_at", "ends_at"):
        if name in case:
            fields[name] = datetime.fromisoformat(case[name])
    fields["exclude"] = tuple(case.get("exclude", ()))
    return Schedule(case["kind"], case["expr"], "Europe/Chisinau", CREATED, **fields)


@pytest.mark.parametrize("lang", ["en", "ro", "ru"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["expr"][:40])
def test_a_schedule_says_what_it_means(case: dict[str, Any], lang: Any) -> None:
    assert explain(schedule_of(case), lang=lang) == case[lang]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "каждый день"),
        (2, "каждые 2 дня"),
        (4, "каждые 4 дня"),
        (5, "каждые 5 дней"),
        (11, "каждые 11 дней"),
        (12, "каждые 12 дней"),
        (14, "каждые 14 дней"),
        (21, "каждый 21 день"),
        (22, "каждые 22 дня"),
        (25, "каждые 25 дней"),
        (101, "каждый 101 день"),
        (111, "каждые 111 дней"),
    ],
)
def test_russian_numbers_and_nouns_agree(number: int, said: str) -> None:
    assert LANGUAGES["ru"].every(number, Freq.DAILY) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "în fiecare zi"),
        (2, "la fiecare 2 zile"),
        (19, "la fiecare 19 zile"),
        (20, "la fiecare 20 de zile"),
        (100, "la fiecare 100 de zile"),
        (101, "la fiecare 101 zile"),
        (119, "la fiecare 119 zile"),
        (120, "la fiecare 120 de zile"),
    ],
)
def test_romanian_numbers_from_twenty_on_take_de(number: int, said: str) -> None:
    assert LANGUAGES["ro"].every(number, Freq.DAILY) == said


def test_every_language_has_every_phrase() -> None:
    keys = {lang: set(words.phrases) for lang, words in LANGUAGES.items()}
    assert keys["ro"] == keys["en"]
    assert keys["ru"] == keys["en"]
    for words in LANGUAGES.values():
        assert (len(words.months), len(words.weekdays)) == (12, 7)


def test_what_can_not_be_used_is_not_explained() -> None:
    with pytest.raises(InvalidSchedule):
        explain(Schedule("rrule", "FREQ=DAILY;BYHOUR=25", "UTC", CREATED))
    with pytest.raises(InvalidSchedule):
        explain(Schedule("cron", "0 0 30 2 *", "UTC", CREATED))
