"""What keeps a REST process fresh goes on, whatever one of its steps does."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from keycore.errors import StoreUnavailableError
from keyrest.upkeep import Upkeep

SECONDS_MAX = 20


class Step:
    """Counts how often it was taken, and fails as the test wants."""

    def __init__(self) -> None:
        self.taken = 0
        self.failure: Exception | None = None

    def __call__(self) -> None:
        self.taken += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def step() -> Step:
    return Step()


@pytest.mark.parametrize(
    "failure",
    [StoreUnavailableError("the store does not answer"), ValueError("unexpected")],
    ids=["expected", "unexpected"],
)
def test_a_step_that_fails_stops_no_other(step: Step, failure: Exception) -> None:
    first = Step()
    first.failure = failure

    Upkeep({"first": first, "second": step}).run_once()

    assert (first.taken, step.taken) == (1, 1)


def test_a_failure_is_told_once_and_so_is_its_end(step: Step) -> None:
    upkeep = Upkeep({"store": step})
    step.failure = StoreUnavailableError("the store does not answer")

    with capture_logs() as logs:
        for _ in range(3):
            upkeep.run_once()
        step.failure = None
        for _ in range(3):
            upkeep.run_once()

    assert [(line["event"], line["step"]) for line in logs] == [
        ("upkeep failed", "store"),
        ("upkeep succeeds again", "store"),
    ]
    assert logs[0]["reason"] == "the store does not answer"


def test_an_unexpected_failure_is_told_with_its_trace(step: Step) -> None:
    step.failure = ValueError("unexpected")

    with capture_logs() as logs:
        for _ in range(3):
            Upkeep({"store": step}).run_once()

    assert [line["log_level"] for line in logs] == ["error"] * 3
    assert logs[0]["exc_info"] is step.failure


def test_while_it_is_entered_the_steps_are_repeated() -> None:
    often = threading.Barrier(2, timeout=SECONDS_MAX)

    with Upkeep({"often": often.wait}, interval_seconds=0.001):
        for _ in range(3):
            often.wait()
        often.abort()


def test_after_it_was_left_no_step_is_taken(step: Step) -> None:
    taken = threading.Event()

    with Upkeep({"first": taken.set, "second": step}, interval_seconds=0.001):
        assert taken.wait(SECONDS_MAX)
    count = step.taken

    assert not any(thread.name == "upkeep" for thread in threading.enumerate())
    assert step.taken == count
