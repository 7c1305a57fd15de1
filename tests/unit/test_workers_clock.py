"""The clock of a worker, between two readings of the database's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ordinaut.clock import TravelClock
from ordinaut.workers import clock as module
from ordinaut.workers.clock import DatabaseClock

START = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> TravelClock:
    """The machine's clock and stopwatch."""
    travel = TravelClock(START)
    monkeypatch.setattr(module, "monotonic", travel.monotonic)
    monkeypatch.setattr(module, "SystemClock", lambda: travel)
    return travel


def seconds(clock: DatabaseClock) -> float:
    return (clock.now() - START).total_seconds()


def read(
    clock: DatabaseClock, machine: TravelClock, told: float, *, there: float = 0, back: float = 0
) -> None:
    """Take a reading that was so many seconds on its way; ``told`` is in seconds from the start."""
    asked_at = machine.monotonic()
    machine.move(timedelta(seconds=there + back))
    clock.set(START + timedelta(seconds=told), asked_at=asked_at)


def test_it_goes_on_with_the_stopwatch_when_the_machine_s_clock_jumps(machine: TravelClock) -> None:
    clock = DatabaseClock()
    machine.set(START - timedelta(hours=1))
    assert seconds(clock) == 0
    machine.move(timedelta(seconds=2))
    assert seconds(clock) == 2


@pytest.mark.parametrize(("there", "back"), [(0.001, 9), (9, 0.001)])
def test_an_answer_that_was_long_on_its_way_does_not_move_a_clock_that_is_right(
    machine: TravelClock, there: float, back: float
) -> None:
    clock = DatabaseClock()
    read(clock, machine, told=there, there=there, back=back)
    assert seconds(clock) == pytest.approx(there + back)


@pytest.mark.parametrize("wrong", [-3600, -5, 5, 3600])
def test_a_reading_corrects_it_to_within_the_time_of_the_answer(
    machine: TravelClock, wrong: float
) -> None:
    clock = DatabaseClock()
    for way in (2, 0.001):
        now = machine.monotonic() - wrong
        read(clock, machine, told=now + way, there=way, back=way)
        assert seconds(clock) + wrong == pytest.approx(machine.monotonic(), abs=2 * way)


def test_it_is_not_behind_what_the_database_has_shown(machine: TravelClock) -> None:
    clock = DatabaseClock()
    due = START + timedelta(seconds=0.003)
    clock.reached(due)
    assert clock.now() >= due
    machine.move(timedelta(seconds=5))
    clock.reached(due)
    assert seconds(clock) == pytest.approx(5.003)
