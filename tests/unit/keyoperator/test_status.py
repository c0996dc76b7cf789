"""How findings become conditions."""

from __future__ import annotations

from datetime import timedelta

from keyoperator.status import (
    Condition,
    ConditionType,
    Finding,
    find_condition,
    merge_conditions,
)
from tests.unit.keyoperator.builders import NOW

EARLIER = NOW - timedelta(hours=1)
READY = Finding(ConditionType.READY, "KeyActive", "as it was", holds=True)
SAME_STATUS = Finding(ConditionType.READY, "KeyActive", "version 2", holds=True)
NOT_READY = Finding(ConditionType.READY, "Expired", "it expired", holds=False)
IDLE = Finding(ConditionType.ROTATING, "Idle", "no rotation", holds=False)


def test_a_first_finding_begins_now():
    assert merge_conditions([], [READY], 1, NOW) == (Condition(READY, 1, NOW),)


def test_the_transition_time_stays_when_only_reason_and_message_change():
    previous = [Condition(READY, 1, EARLIER)]

    merged = merge_conditions(previous, [SAME_STATUS], 2, NOW)

    assert merged == (Condition(SAME_STATUS, 2, EARLIER),)


def test_the_transition_time_changes_with_the_status():
    previous = [Condition(READY, 1, EARLIER)]

    merged = merge_conditions(previous, [NOT_READY], 1, NOW)

    assert merged == (Condition(NOT_READY, 1, NOW),)


def test_a_condition_that_nothing_was_found_about_stays_as_it_was():
    previous = [Condition(READY, 1, EARLIER), Condition(IDLE, 1, EARLIER)]

    merged = merge_conditions(previous, [NOT_READY], 2, NOW)

    assert merged == (Condition(NOT_READY, 2, NOW), Condition(IDLE, 1, EARLIER))


def test_a_condition_is_found_by_its_type():
    conditions = [Condition(READY, 1, NOW), Condition(IDLE, 1, NOW)]

    assert find_condition(conditions, ConditionType.ROTATING) == IDLE
    assert find_condition(conditions, ConditionType.DELETION_BLOCKED) is None
