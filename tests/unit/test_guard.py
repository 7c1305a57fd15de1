"""Which addresses requests on behalf of agents may connect to."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ordinaut.guard import Policy

DATA = Path(__file__).parents[1] / "data" / "extensions" / "addresses.json"
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


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("127.1.2.3", False),
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("::1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("8.8.8.8", True),
    ],
)
def test_a_network_that_is_allowed_opens_no_other(address: str, allowed: bool) -> None:
    policy = Policy.of_webhooks(["127.0.0.1/32", "10.1.0.0/16", "169.254.0.0/16"])
    assert (policy.refusal(ip_address(address)) is None) is allowed
