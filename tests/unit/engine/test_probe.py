"""What the polls of a condition mean: edges, levels, cool-downs, and the rhythm of polls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ordinaut.engine.probe import judge, next_poll
from ordinaut.engine.steps import Probe, Step

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
CALL = Step(id="probe", path="payload.probe", uses="test.gauge")
SECONDS = st.floats(min_value=1, max_value=10_000_000, allow_nan=False)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def follow(probe: Probe, held: list[bool]) -> tuple[list[int], list[int]]:
    """Poll ten seconds apart; return the polls that fire and those that are suppressed."""
    armed, fired_at = True, None
    fired, suppressed = [], []
    for number, holds in enumerate(held):
        now = at(10 * number)
        judgement = judge(probe, holds, armed=armed, fired_at=fired_at, now=now)
        armed = judgement.armed
        if judgement.fires:
            fired.append(number)
            fired_at = now
        if judgement.suppressed is not None:
            suppressed.append(number)
    return fired, suppressed


def edges(held: list[bool]) -> list[int]:
    before = [False, *held]
    return [n for n, holds in enumerate(held) if holds and not before[n]]


@given(st.lists(st.booleans()))
def test_an_edge_fires_exactly_when_false_becomes_true(held: list[bool]) -> None:
    assert follow(Probe(call=CALL, every=10), held) == (edges(held), [])


@given(st.lists(st.booleans()))
def test_a_level_fires_exactly_while_true(held: list[bool]) -> None:
    fired, _ = follow(Probe(call=CALL, every=10, mode="level"), held)
    assert fired == [n for n, holds in enumerate(held) if holds]


@given(st.lists(st.booleans()), st.integers(0, 60), st.sampled_from(["edge", "level"]))
def test_every_edge_fires_or_is_said_to_be_suppressed(
    held: list[bool], cooldown: int, mode: str
) -> None:
    probe = Probe(call=CALL, every=10, mode=mode, cooldown=cooldown)  # type: ignore[arg-type]
    fired, suppressed = follow(probe, held)
    assert set(edges(held)) <= {*fired, *suppressed}
    assert set(suppressed) <= set(edges(held)) - set(fired)
    assert all(10 * (b - a) >= cooldown for a, b in pairwise(fired))


@given(st.floats(min_value=-100, max_value=10_000_000), SECONDS)
def test_the_next_poll_lies_ahead_by_at_most_one_interval(passed: float, every: float) -> None:
    now = at(passed)
    following = next_poll(START, every, now=now)
    assert following > now
    assert following - max(now, START) <= timedelta(seconds=every, microseconds=2)


@given(st.floats(min_value=0, max_value=1_000_000), st.integers(1, 3600))
def test_polls_keep_their_rhythm(passed: float, every: int) -> None:
    following = next_poll(START, every, now=at(passed))
    assert (following - START) % timedelta(seconds=every) == timedelta(0)
