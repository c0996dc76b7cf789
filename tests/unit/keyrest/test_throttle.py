"""A caller that asks too often is told to wait; others are not."""

from __future__ import annotations

import pytest

from keycore.errors import TooManyRequestsError
from keyrest.throttle import CALLERS_MAX, Throttle
from tests.fakes.fixed_clock import FixedClock


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


def admitted(throttle: Throttle, actor: str = "idp:a") -> int:
    """Ask until it is too much, and return how often it was not."""
    count = 0
    while True:
        try:
            throttle.admit(actor)
        except TooManyRequestsError:
            return count
        count += 1


def test_a_caller_may_save_up_one_second(clock: FixedClock) -> None:
    throttle = Throttle(4, clock)

    assert admitted(throttle) == 4
    clock.advance(hours=1)
    assert admitted(throttle) == 4


def test_in_the_long_run_a_caller_may_ask_as_often_as_the_setting_says(clock: FixedClock) -> None:
    throttle = Throttle(2.5, clock)
    admitted(throttle)

    asked = 0
    for _ in range(1000):
        clock.advance(seconds=0.1)
        asked += admitted(throttle)

    assert asked in (249, 250, 251)


def test_no_two_seconds_hold_more_than_twice_the_rate_and_what_was_saved(
    clock: FixedClock,
) -> None:
    throttle = Throttle(10, clock)

    clock.advance(seconds=0.95)
    asked = admitted(throttle)
    clock.advance(seconds=0.1)
    asked += admitted(throttle)

    assert asked <= 11


def test_a_rate_below_one_a_second_lets_one_through(clock: FixedClock) -> None:
    throttle = Throttle(0.1, clock)

    assert admitted(throttle) == 1
    clock.advance(seconds=9)
    assert admitted(throttle) == 0
    clock.advance(seconds=2)
    assert admitted(throttle) == 1


def test_one_caller_takes_nothing_from_another(clock: FixedClock) -> None:
    throttle = Throttle(1, clock)
    admitted(throttle, "idp:a")

    assert admitted(throttle, "idp:b") == 1


@pytest.mark.parametrize(("rate", "seconds"), [(100, 1), (1, 1), (0.1, 10), (0.001, 1000)])
def test_a_refusal_says_how_long_to_wait(clock: FixedClock, rate: float, seconds: int) -> None:
    throttle = Throttle(rate, clock)
    admitted(throttle)

    with pytest.raises(TooManyRequestsError) as refused:
        throttle.admit("idp:a")

    assert refused.value.retry_after_seconds == seconds
    clock.advance(seconds=seconds)
    throttle.admit("idp:a")


def test_asking_in_vain_does_not_prolong_the_wait(clock: FixedClock) -> None:
    throttle = Throttle(1, clock)
    throttle.admit("idp:a")
    for _ in range(100):
        with pytest.raises(TooManyRequestsError):
            throttle.admit("idp:a")

    clock.advance(seconds=1)

    throttle.admit("idp:a")


def test_callers_are_remembered_up_to_a_bound(clock: FixedClock) -> None:
    throttle = Throttle(0.001, clock)
    for number in range(CALLERS_MAX + 1):
        throttle.admit(f"idp:{number}")

    assert admitted(throttle, "idp:0") == 1
    assert admitted(throttle, f"idp:{CALLERS_MAX}") == 0


def test_without_the_setting_there_is_no_bound(clock: FixedClock) -> None:
    throttle = Throttle(None, clock)

    for _ in range(1000):
        throttle.admit("idp:a")
