"""Which addresses http.request may connect to."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ordinaut.extensions.http.guard import Policy

DATA = Path(__file__).parents[2] / "data" / "extensions" / "addresses.json"
CASES = json.loads(DATA.read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["address"])
def test_an_address_is_allowed_as_its_kind_says(case: dict[str, Any]) -> None:
    address = ip_address(case["address"])
    allowed = Policy.of(private=False, hosts=()).refusal(address) is None
    allowed_inside = Policy.of(private=True, hosts=()).refusal(address) is None
    assert (allowed, allowed_inside) == (case["kind"] == "public", case["kind"] != "never")


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("localhost", 8080, True),
        ("localhost", 8081, False),
        ("anywhere", 1, True),
        ("::1", 9000, True),
        ("::1", 9001, False),
        ("localhost.evil.example", 8080, False),
    ],
)
def test_a_host_is_allowed_by_name_and_port(host: str, port: int, allowed: bool) -> None:
    policy = Policy.of(private=False, hosts=["LocalHost:8080", "anywhere", "[::1]:9000"])
    assert policy.names(host, port) is allowed
