"""What is said about a key, and that it says what to do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keycore.domain.keys import KeyKind, KeyState
from keyoperator.decide import Observed
from keyoperator.findings import explain_blocked_deletion, explain_failure, find_conditions
from keyoperator.status import ConditionType
from tests.unit.keyoperator.builders import (
    KEY_ID,
    NOW,
    OTHER_KEY_ID,
    a_key,
    a_rotating_key,
    a_user,
    a_wish,
)

READY = {
    "a key as wanted is ready": (a_wish(), Observed(a_key()), True, "KeyActive", "version 1"),
    "a key that rotates is ready": (
        a_wish(),
        Observed(a_rotating_key()),
        True,
        "KeyActive",
        "version 1 encrypts",
    ),
    "a resource that has no key yet is not ready": (
        a_wish(),
        Observed(),
        False,
        "NoKey",
        "tried again",
    ),
    "a lost key is named, with both ways out": (
        a_wish(),
        Observed(former=KEY_ID),
        False,
        "KeyLost",
        f"spec.adopt: {KEY_ID}",
    ),
    "a key of another type is not adopted, and the right type named": (
        a_wish(adopt=KEY_ID),
        Observed(adoptable=a_key(kind=KeyKind.STANDARD)),
        False,
        "TypeMismatch",
        "spec.type: Standard",
    ),
    "a deleted key is not made again": (
        a_wish(),
        Observed(a_key(state=KeyState.DESTROYED)),
        False,
        "KeyDeleted",
        "create another one",
    ),
    "a key suspended by its resource is not ready": (
        a_wish(suspended=True),
        Observed(a_key(state=KeyState.SUSPENDED)),
        False,
        "KeyStateSuspended",
        "by spec.state",
    ),
    "a key suspended elsewhere can be resumed here": (
        a_wish(),
        Observed(a_key(state=KeyState.SUSPENDED)),
        False,
        "KeyStateSuspended",
        "elsewhere and refuses everything. Set spec.state: Active",
    ),
    "a suspended key that expires stays suspended": (
        a_wish(),
        Observed(a_key(state=KeyState.SUSPENDED, expires_at=NOW)),
        False,
        "KeyStateSuspended",
        "resume",
    ),
    "an expired key is not ready": (
        a_wish(),
        Observed(a_key(expires_at=NOW)),
        False,
        "Expired",
        "expired at 2030-03-01T12:00:00Z",
    ),
    "a key that expires later is ready": (
        a_wish(),
        Observed(a_key(expires_at=NOW + timedelta(seconds=1))),
        True,
        "KeyActive",
        "active",
    ),
}

ROTATING = {
    "a key at rest does not rotate": (a_wish(), Observed(a_key()), False, "Idle", "No rotation"),
    "a pending version names the nodes it waits for, and the fix": (
        a_wish(),
        Observed(a_rotating_key(), users=(a_user(pending=True, waiting_for=("node-b", "node-a")),)),
        True,
        "WaitingForNodes",
        (
            "Version 2 waits until node node-a, node-b of KMS provider keyplane has loaded it. "
            "Start keyplane there, or remove a node that will not come back: "
            "keyplane nodes remove node-a --provider keyplane"
        ),
    ),
    "nodes that wait for another key are not named": (
        a_wish(),
        Observed(
            a_rotating_key(),
            users=(a_user(key_id=OTHER_KEY_ID, pending=True, waiting_for=("node-c",)),),
        ),
        True,
        "WaitingForNodes",
        "Version 2 is about to be loaded everywhere",
    ),
    "a rotation that waits for a binding is deferred": (
        a_wish(rotation_trigger="2"),
        Observed(a_key(), users=(a_user(pending=True, waiting_for=("node-a",)),)),
        False,
        "Deferred",
        "keyplane nodes remove node-a",
    ),
    "a binding that waits defers nothing when no rotation is due": (
        a_wish(rotation_trigger="1"),
        Observed(a_key(rotation_marker="1"), users=(a_user(pending=True, waiting_for=("n",)),)),
        False,
        "Idle",
        "No rotation",
    ),
    "an adopted imported key says how it is rotated": (
        a_wish(rotation_trigger="1"),
        Observed(a_key(imported=True)),
        False,
        "PayloadRequired",
        f"keyplane keys rotate {KEY_ID}",
    ),
    "an imported key that nobody wants to rotate is at rest": (
        a_wish(),
        Observed(a_key(imported=True)),
        False,
        "Idle",
        "No rotation",
    ),
    "without a key there is nothing to rotate": (a_wish(), Observed(), False, "NoKey", "no key"),
    "a deleted key does not rotate": (
        a_wish(),
        Observed(a_key(state=KeyState.DESTROYED)),
        False,
        "NoKey",
        "no key",
    ),
}


@pytest.mark.parametrize(
    ("wanted", "observed", "holds", "reason", "says"), READY.values(), ids=READY.keys()
)
def test_ready(wanted, observed, holds, reason, says):
    ready, _ = find_conditions(wanted, observed, NOW)

    assert (ready.type, ready.holds, ready.reason) == (ConditionType.READY, holds, reason)
    assert says in ready.message


@pytest.mark.parametrize(
    ("wanted", "observed", "holds", "reason", "says"), ROTATING.values(), ids=ROTATING.keys()
)
def test_rotating(wanted, observed, holds, reason, says):
    _, rotating = find_conditions(wanted, observed, NOW)

    assert (rotating.type, rotating.holds, rotating.reason) == (
        ConditionType.ROTATING,
        holds,
        reason,
    )
    assert says in rotating.message


def test_a_failure_is_about_readiness():
    finding = explain_failure("Refused", "Why")

    assert (finding.type, finding.holds) == (ConditionType.READY, False)


def test_a_failed_deletion_says_that_it_is_blocked():
    finding = explain_blocked_deletion("KeyInUse", "Why")

    assert (finding.type, finding.holds) == (ConditionType.DELETION_BLOCKED, True)
