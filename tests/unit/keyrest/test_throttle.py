"""A caller that asks too often is told to wait; others are not."""

from __future__ import annotations

import pytest

from keycore.errors import TooManyRequestsError
from keyrest.throttle import Throttle

RARE = 1 / 1000
"""One request in 1000 seconds, so that no window ends while a test runs."""


def test_a_caller_may_ask_as_often_as_the_setting_says() -> None:
    throttle = Throttle(2.5)

    for _ in range(5):
        throttle.admit("idp:a")
    with pytest.raises(TooManyRequestsError):
        throttle.admit("idp:a")


def test_one_caller_takes_nothing_from_another() -> None:
    throttle = Throttle(RARE)
    throttle.admit("idp:a")

    throttle.admit("idp:b")

    with pytest.raises(TooManyRequestsError):
        throttle.admit("idp:a")


def test_a_refusal_says_how_long_to_wait() -> None:
    throttle = Throttle(RARE)
    throttle.admit("idp:a")

    with pytest.raises(TooManyRequestsError) as refused:
        throttle.admit("idp:a")

    assert 990 <= refused.value.retry_after_seconds <= 1001


def test_without_the_setting_there_is_no_bound() -> None:
    throttle = Throttle(None)

    for _ in range(1000):
        throttle.admit("idp:a")
