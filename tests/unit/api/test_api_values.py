"""Small things of the API: cursors, instants, scopes, versions, secrets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordinaut.api.checks import NextOccurrences, PipelineCheck
from ordinaut.api.dependencies import if_match
from ordinaut.api.errors import STATUS, path, status_of
from ordinaut.api.paging import cursor_id, cursor_seq, encode_cursor, paged
from ordinaut.api.schemas.base import parse_instant
from ordinaut.api.scopes import KNOWN, check_grant, check_scope
from ordinaut.engine.registry import ToolRegistry
from ordinaut.errors import Forbidden, InvalidInput, LeaseLost, OrdinautError
from ordinaut.model import Agent, Schedule, uuid7
from ordinaut.store import agents


@given(st.uuids(), st.integers(0, 10**18 - 1))
def test_a_cursor_leads_back_to_its_place(place: UUID, seq: int) -> None:
    assert cursor_id(encode_cursor(place)) == place
    assert cursor_seq(encode_cursor(seq)) == seq


@given(st.text(max_size=60))
def test_a_cursor_that_nobody_gave_is_a_place_or_refused(text: str) -> None:
    for read in (cursor_id, cursor_seq):
        with suppress(InvalidInput):  # anything else would be an error
            read(text)


def test_a_page_has_a_cursor_when_more_follows() -> None:
    assert paged([1, 2, 3], limit=2, place=lambda n: n) == ([1, 2], encode_cursor(2))
    assert paged([1, 2], limit=2, place=lambda n: n) == ([1, 2], None)
    assert paged([], limit=2, place=lambda n: n) == ([], None)


@given(st.datetimes(timezones=st.timezones()))
def test_an_instant_is_read_in_utc(moment: datetime) -> None:
    if moment.utcoffset() is None or moment.utcoffset().seconds % 60:  # type: ignore[union-attr]
        return  # local mean times have seconds, which RFC 3339 can not write
    try:
        read = parse_instant(moment.isoformat())
    except ValueError:
        assert moment.year in (1, 9999)
        return
    assert read == moment.astimezone(UTC)
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-01",
        "2027-01-01T00:00:00",
        "2027-01-01 00:00:00Z",
        "2027-01-01T00:00Z",
        "20270101T000000Z",
        "2027-W01-1T00:00:00Z",
        "2027-01-01T24:00:00Z",
        "2027-01-01T00:00:60Z",
        "2027-02-29T00:00:00Z",
        "2027-01-01T00:00:00+24:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2027-01-01T00:00:00Z\n",
        "٢٠٢٧-01-01T00:00:00Z",
        "1798761600",
        1798761600,
        None,
        True,
    ],
)
def test_what_is_not_rfc_3339_is_no_instant(text: object) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|no such time"):
        parse_instant(text)


@pytest.mark.parametrize("scope", [*KNOWN, "ext:webui:routes", "ext:mcp_http:events_sub"])
def test_known_scopes_are_accepted(scope: str) -> None:
    assert check_scope(scope) == scope


@pytest.mark.parametrize(
    "scope", ["", "tasks", "tasks:*", "*", "Admin", "ext::routes", "ext:a:all", "ext:a:routes\n"]
)
def test_unknown_scopes_are_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="unknown scope"):
        check_scope(scope)


def test_a_mistyped_scope_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="tasks:read"):
        check_scope("tasks:raed")


def test_grants_end_where_the_giver_ends() -> None:
    giver = Agent(uuid7(), "a", frozenset({"agents:admin", "tasks:read:all"}))
    check_grant(giver, ["tasks:read", "tasks:read:all"])
    for beyond in ("admin", "tasks:write", "ext:webui:routes"):
        with pytest.raises(Forbidden, match=beyond):
            check_grant(giver, [beyond])
    check_grant(Agent(uuid7(), "b", frozenset({"admin"})), KNOWN)


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (None, None),
        ("*", None),
        ('"7"', 7),
        ('W/"7"', 7),
        ("7", 7),
        ('"x"', -1),
        ("", -1),
        ("-1", -1),
        ("٧", -1),
        ('"1", "2"', -1),
        ("9" * 50, -1),
    ],
)
def test_if_match_is_a_version_or_matches_none(header: str | None, version: int | None) -> None:
    assert asyncio.run(if_match(header)) == version


def test_a_place_is_written_as_a_reader_would() -> None:
    assert path(("payload", "pipeline", 2, "with", "url")) == "payload.pipeline[2].with.url"
    assert path((0, "a")) == "[0].a"
    assert path(()) == ""


def test_every_error_that_can_reach_a_caller_has_a_status() -> None:
    def all_of(kind: type[OrdinautError]) -> set[type[OrdinautError]]:
        return {kind}.union(*(all_of(sub) for sub in kind.__subclasses__()))

    ours = {kind for kind in all_of(OrdinautError) if kind.__module__ == "ordinaut.errors"}
    listed = tuple(kind for kind, _ in STATUS)
    assert {kind for kind in ours if not issubclass(kind, listed)} == {OrdinautError, LeaseLost}
    assert status_of(LeaseLost("x")) == 500


def test_keys_have_256_bits_and_a_checksum() -> None:
    made = {agents.new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("ord_") and len(key) == 56 for key in made)


def test_a_pipeline_is_checked_again_when_its_tool_is_another() -> None:
    tools = ToolRegistry()

    async def old(message: str) -> None:
        """Say it."""

    async def new(text: str) -> None:
        """Say it otherwise."""

    tools.register("demo.say", old)
    check = PipelineCheck(tools)
    payload = {"pipeline": [{"uses": "demo.say", "with": {"message": "x"}}]}
    check(payload)
    check(payload | {"params": {"n": 1}})

    tools.unregister("demo.say")
    with pytest.raises(InvalidInput, match="unknown tool"):
        check(payload)
    tools.register("demo.say", new)
    with pytest.raises(InvalidInput):
        check(payload)


def test_remembered_checks_do_not_let_bad_parameters_pass() -> None:
    tools = ToolRegistry()

    async def say(message: str) -> None:
        """Say it."""

    tools.register("demo.say", say)
    check = PipelineCheck(tools)
    payload = {"pipeline": [{"uses": "demo.say", "with": {"message": "x"}}]}
    check(payload)

    with pytest.raises(InvalidInput):
        check(payload | {"params": [1]})
    with pytest.raises(InvalidInput):
        check(payload | {"extra": 1})


def test_remembered_occurrences_are_those_of_the_same_schedule() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    find = NextOccurrences()

    def following(kind: str, expr: str, anchor: datetime, after: datetime) -> datetime | None:
        schedule = Schedule(kind, expr, "UTC", anchor)  # type: ignore[arg-type]
        return find(schedule, calendars={}, after=after)

    for minutes in (7, 3, 7, 59):
        after = now + timedelta(minutes=minutes)
        assert following("interval", "PT1H", now, after) == now + hour
        assert following("interval", "PT1H", after, after) == after + hour
        assert following("cron", "0 13 * * *", now, after) == now + hour
        assert following("cron", "0 13 * * *", after, after) == now + hour
        assert following("once", "2026-11-23T12:00:00Z", now, after) is None
    for after in (now + hour, now + 2 * hour, now, now + 3 * hour):
        expected = now + hour if after == now else now + 25 * hour
        assert following("cron", "0 13 * * *", now, after) == expected
