"""What is told, once for each change."""

from __future__ import annotations

import pytest

from keycore.domain.keys import VersionState
from keyoperator.events import Event, derive_events
from keyoperator.status import Condition, ConditionType, Finding
from keyoperator.wanted import Previous
from tests.unit.keyoperator.builders import (
    INSTANCE_ID,
    KEY_ID,
    NOW,
    a_key,
    a_rotating_key,
    a_version,
)


def _condition(kind: ConditionType, reason: str, *, holds: bool, message: str = "why") -> Condition:
    return Condition(Finding(kind, reason, message, holds=holds), 1, NOW)


READY = _condition(ConditionType.READY, "KeyActive", holds=True)
SUSPENDED = _condition(ConditionType.READY, "KeyStateSuspended", holds=False)
EXPIRED = _condition(ConditionType.READY, "Expired", holds=False)
EXPIRED_WITH_OTHER_WORDS = _condition(
    ConditionType.READY, "Expired", holds=False, message="still so"
)
IDLE = _condition(ConditionType.ROTATING, "Idle", holds=False)
WAITING = _condition(ConditionType.ROTATING, "WaitingForNodes", holds=True)
BLOCKED = _condition(ConditionType.DELETION_BLOCKED, "KeyInUse", holds=True)
ROTATED = a_key(versions=(a_version(1, VersionState.RETIRED), a_version(2)))


def _known(*conditions: Condition) -> Previous:
    return Previous(KEY_ID, 1, 1, conditions)


def test_a_key_that_was_made_is_told():
    events = derive_events(Previous(), a_key(), (READY, IDLE), adopts=False)

    assert events == [Event("Normal", "Created", f"Created key {KEY_ID} in instance {INSTANCE_ID}")]


def test_a_key_that_was_adopted_is_told():
    events = derive_events(Previous(), a_key(), (READY, IDLE), adopts=True)

    assert [event.reason for event in events] == ["Adopted"]


def test_a_new_version_is_told_when_it_encrypts():
    events = derive_events(_known(READY, IDLE), ROTATED, (READY, IDLE), adopts=False)

    assert [event.reason for event in events] == ["Rotated"]


def test_a_version_that_waits_is_told():
    events = derive_events(_known(READY, IDLE), a_rotating_key(), (READY, WAITING), adopts=False)

    assert events == [Event("Normal", "RotationPending", "why")]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        pytest.param(READY, READY, [], id="what stays is not told"),
        pytest.param(
            EXPIRED, EXPIRED_WITH_OTHER_WORDS, [], id="what stays is not told in other words"
        ),
        pytest.param(READY, EXPIRED, [("Warning", "Expired")], id="a fault is a warning"),
        pytest.param(EXPIRED, READY, [("Normal", "Ready")], id="the end of a fault is told"),
        pytest.param(READY, SUSPENDED, [("Normal", "Suspended")], id="a suspension is no fault"),
        pytest.param(SUSPENDED, READY, [("Normal", "Resumed")], id="a resumption has its name"),
        pytest.param(SUSPENDED, EXPIRED, [("Warning", "Expired")], id="another fault is told"),
        pytest.param(WAITING, IDLE, [], id="the end of waiting is told by the rotation"),
        pytest.param(BLOCKED, BLOCKED, [], id="a blocked deletion is told once"),
    ],
)
def test_changes_of_conditions(before, now, told):
    events = derive_events(_known(before), a_key(), (now,), adopts=False)

    assert [(event.kind, event.reason) for event in events] == told


def test_a_blocked_deletion_is_a_warning():
    events = derive_events(_known(READY), None, (READY, BLOCKED), adopts=False)

    assert [(event.kind, event.reason) for event in events] == [("Warning", "DeletionBlocked")]
