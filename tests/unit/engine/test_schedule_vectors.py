"""Occurrences as facts: RFC 5545, three public libraries, cron, and the zones' changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine import schedule
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule

DATA = Path(__file__).parents[2] / "data"
LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
LIBRARIES = ("rrule_libical.json", "rrule_rrulejs.json", "rrule_icaljs.json")


def cases(file: str, key: str = "cases") -> list[Any]:
    found = json.loads((DATA / file).read_text(encoding="utf-8"))[key]
    return [pytest.param(case, id=f"{file}-{index}") for index, case in enumerate(found)]


def all_of(case: dict[str, Any]) -> tuple[list[str], bool]:
    """Return the occurrences of a library's vector in its own notation, and whether they end."""
    expr = f"DTSTART:{case['dtstart']}\nRRULE:{case['rrule']}"
    given = Schedule("rrule", expr, "UTC", anchor=LONG_AGO)
    count = len(case["expected"]) if case.get("expected") else 1
    try:
        found, finished = schedule.preview(given, after=LONG_AGO, count=count)
    except InvalidSchedule as refused:
        return ([], True) if "can never fire" in refused.message else (["refused"], True)
    return [one.at.strftime("%Y%m%dT%H%M%S") for one in found], finished


def normal(times: list[str]) -> list[str]:
    return [time.rstrip("Z") if "T" in time else f"{time}T000000" for time in times]


@pytest.mark.parametrize("case", cases("rfc5545_examples.json"))
def test_the_examples_of_rfc_5545(case: dict[str, Any]) -> None:
    given = Schedule("rrule", case["expr"], "America/New_York", anchor=LONG_AGO)
    found, finished = schedule.preview(given, after=LONG_AGO, count=len(case["expected"]))
    assert [one.local.isoformat() for one in found] == case["expected"]
    assert finished == case["finished"]


@pytest.mark.parametrize("case", [case for file in LIBRARIES for case in cases(file)])
def test_the_vectors_of_other_libraries(case: dict[str, Any]) -> None:
    assert all_of(case) == (normal(case["expected"]), case["finished"])


@pytest.mark.parametrize("case", [case for file in LIBRARIES for case in cases(file, "differs")])
def test_where_we_differ_from_other_libraries_on_purpose(case: dict[str, Any]) -> None:
    assert all_of(case) != (normal(case.get("expected", [])), case.get("finished"))


@pytest.mark.parametrize("case", cases("dst.json"))
def test_clock_changes(case: dict[str, Any]) -> None:
    after = datetime.fromisoformat(case["after"])
    starts_at = datetime.fromisoformat(case["starts_at"]) if "starts_at" in case else None
    given = Schedule(
        case["kind"],
        case["expr"],
        case["zone"],
        anchor=after,
        starts_at=starts_at,
        dst_gap=case.get("dst_gap", "shift"),
        dst_fold=case.get("dst_fold", "first"),
    )
    found, _ = schedule.preview(given, after=after, count=len(case["expected"]))
    assert [f"{one.local.isoformat()} {one.note}".strip() for one in found] == case["expected"]


@pytest.mark.parametrize("case", cases("cron.json"))
def test_cron_expressions(case: dict[str, Any]) -> None:
    after = datetime.fromisoformat(case["after"]).replace(tzinfo=UTC)
    given = Schedule("cron", case["expr"], "UTC", anchor=after)
    found, _ = schedule.preview(given, after=after, count=len(case["expected"]))
    assert [one.at.strftime("%Y-%m-%d %H:%M:%S") for one in found] == case["expected"]


@pytest.mark.parametrize("case", cases("bad_schedules.json"))
def test_a_mistake_is_named_and_helped(case: dict[str, Any]) -> None:
    moments = {
        name: datetime.fromisoformat(case[name])
        for name in ("starts_at", "ends_at")
        if name in case
    }
    given = Schedule(
        case["kind"],
        case["expr"],
        case.get("timezone", "Europe/Chisinau"),
        anchor=datetime(2027, 1, 5, 14, 23, 11, tzinfo=UTC),
        dst_gap=case.get("dst_gap", "shift"),
        exclude=tuple(case.get("exclude", ())),
        **moments,
    )
    with pytest.raises(InvalidSchedule) as caught:
        schedule.compile_schedule(given)
    (problem,) = caught.value.problems
    assert problem.path == case["path"]
    assert problem.code == "invalid_schedule"
    assert [word for word in case["says"] if word not in problem.message] == []
