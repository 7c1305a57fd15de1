"""Signatures as the specification shows them, and the pauses between attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ordinaut.engine import webhooks

# The example of https://github.com/standard-webhooks/standard-webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'


def test_a_signature_is_that_of_the_specification() -> None:
    sent = datetime.fromtimestamp(1614265330, UTC)

    headers = webhooks.headers([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", BODY, at=sent)

    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_secret_signs() -> None:
    other = webhooks.secret_of(b"x" * 32)

    both = webhooks.signatures([SECRET, other], "id", 1, BODY)

    assert both.split(" ") == [webhooks.signatures([one], "id", 1, BODY) for one in (SECRET, other)]


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_pauses_grow_and_end(spread: float) -> None:
    pauses = [webhooks.pause_after(count, spread=spread) for count in range(1, 11)]

    assert pauses[0] == timedelta(seconds=5 * (1 + 0.2 * spread))
    assert pauses[8] == timedelta(hours=24 * (1 + 0.2 * spread))
    assert pauses[9] is None
    assert sorted(pauses[:9]) == pauses[:9]
