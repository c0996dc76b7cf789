"""Looks at something outside: whoever asks gets the last one's result at once."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from keycore.errors import StoreUnavailableError
from keycore.service.readiness import Finding, Outcome
from keywatch.looks import SILENT_SECONDS, Look, Looking
from tests.fakes.fixed_clock import FixedClock


class Outside:
    """Something that answers or does not."""

    def __init__(self) -> None:
        self.fault = ""
        self.looks = 0

    def answer(self) -> None:
        self.looks += 1
        if self.fault:
            raise StoreUnavailableError(self.fault)


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def look(outside: Outside, clock: FixedClock) -> Look:
    return Look("the store", outside.answer, clock, explain=str)


def test_nothing_is_well_before_the_first_look(look: Look) -> None:
    assert look.age_seconds() == float("inf")
    assert look.finding() == Finding(Outcome.FAILED, "the store was not asked yet")


def test_a_look_that_went_well_is_believed_for_a_while_and_no_longer(
    look: Look, clock: FixedClock
) -> None:
    look.take()
    clock.advance(seconds=SILENT_SECONDS)
    assert (look.fault(), look.finding()) == ("", Finding())

    clock.advance(seconds=1)
    assert look.fault() == "the store has not answered for more than 20 seconds"
    assert look.age_seconds() == SILENT_SECONDS + 1


def test_a_fault_is_kept_and_passes_to_whoever_looked(look: Look, outside: Outside) -> None:
    outside.fault = "away"

    with pytest.raises(StoreUnavailableError):
        look.take()

    assert look.finding() == Finding(Outcome.FAILED, "away")
    assert look.age_seconds() == 0

    outside.fault = ""
    look.take()
    assert look.fault() == ""


def test_asking_looks_at_nothing(look: Look, outside: Outside) -> None:
    look.take()

    look.fault(), look.finding(), look.age_seconds()

    assert outside.looks == 1


def test_a_look_in_the_background_goes_on_after_a_fault_and_tells_what_changed(
    look: Look, outside: Outside
) -> None:
    looking = Looking(look, 3600.0)
    outside.fault = "away"

    with capture_logs() as logs:
        looking.run_once()
        looking.run_once()
        outside.fault = ""
        looking.run_once()
        looking.run_once()

    told = [(line["log_level"], line["at"]) for line in logs if "at" in line]
    assert told == [("warning", "the store"), ("info", "the store")]
    assert outside.looks == 4
