"""The statements of the store, as they are handed to the driver."""

from __future__ import annotations

import pytest
from psycopg import _queries

from ordinaut.store.queue import SQL


@pytest.mark.parametrize("name", ["enqueue", "lease", "lease_urgent", "lease_beyond", "settle"])
def test_the_driver_remembers_how_it_read_what_runs_for_each_batch(name: str) -> None:
    assert len(SQL[name].encode()) <= _queries.MAX_CACHED_STATEMENT_LENGTH


def test_a_statement_holds_its_parts_and_nothing_for_the_eye() -> None:
    lease = SQL["lease"]
    assert "SET state = 'leased'" in lease
    assert "--" not in lease
    assert "\n " not in lease
