"""What is done about a key, one rule a line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from keycore.domain.keys import KeyKind, KeyState, VersionState
from keycore.service.keys import Edits
from keyoperator.decide import (
    Action,
    Adopt,
    Create,
    Delete,
    Edit,
    Observed,
    Release,
    Resume,
    Rotate,
    Suspend,
    last_action,
    next_actions,
    next_rotation,
)
from keyoperator.wanted import SecretRef, Wanted
from tests.unit.keyoperator.builders import (
    KEY_ID,
    NOW,
    OTHER_KEY_ID,
    a_key,
    a_rotating_key,
    a_user,
    a_version,
    a_wish,
)

SECRET = SecretRef("material", "key")
LATER = NOW + timedelta(days=90)
HOURLY = timedelta(hours=1)
OLD, YOUNG = a_version(1, age=HOURLY), a_version(1, age=timedelta(minutes=59))


@dataclass(frozen=True)
class Case:
    wanted: Wanted
    observed: Observed
    actions: tuple[Action, ...] = ()


CASES = {
    "a resource without a key gets a new one": Case(a_wish(), Observed(), (Create(),)),
    "a resource that adopts takes the key that it names": Case(
        a_wish(adopt=KEY_ID), Observed(adoptable=a_key(owner=None)), (Adopt(KEY_ID),)
    ),
    "a key of another type is not adopted": Case(
        a_wish(adopt=KEY_ID), Observed(adoptable=a_key(kind=KeyKind.STANDARD))
    ),
    "a key that is missing is not adopted, and no other is made": Case(
        a_wish(adopt=KEY_ID), Observed()
    ),
    "a key that was lost is not made again": Case(a_wish(), Observed(former=KEY_ID)),
    "a key that was lost is not adopted again": Case(
        a_wish(adopt=KEY_ID), Observed(former=KEY_ID, adoptable=a_key(owner=None))
    ),
    "a key that was deleted is not made again": Case(
        a_wish(display_name="other", suspended=False, rotation_trigger="2"),
        Observed(a_key(state=KeyState.DESTROYED)),
    ),
    "nothing is done about a key that is as wanted": Case(
        a_wish(display_name="etcd", suspended=False), Observed(a_key())
    ),
    "properties that are not set are left to others": Case(
        a_wish(),
        Observed(a_key(name="x y", description="z z", expires_at=LATER, state=KeyState.SUSPENDED)),
    ),
    "a name that is set is enforced": Case(
        a_wish(display_name="other"), Observed(a_key()), (Edit(Edits(name="other")),)
    ),
    "description and date that are set are enforced together": Case(
        a_wish(description="of etcd", expires_at=LATER),
        Observed(a_key()),
        (Edit(Edits(description="of etcd", expires_at=LATER)),),
    ),
    "an active key is suspended when the resource says so": Case(
        a_wish(suspended=True), Observed(a_key()), (Suspend(),)
    ),
    "a suspended key is resumed when the resource says so": Case(
        a_wish(suspended=False), Observed(a_key(state=KeyState.SUSPENDED)), (Resume(),)
    ),
    "a suspended key stays suspended when the resource says so": Case(
        a_wish(suspended=True), Observed(a_key(state=KeyState.SUSPENDED))
    ),
    "an expired key is suspended when the resource says so": Case(
        a_wish(suspended=True), Observed(a_key(expires_at=NOW)), (Suspend(),)
    ),
    "a changed trigger rotates": Case(
        a_wish(rotation_trigger="2"), Observed(a_key(rotation_marker="1")), (Rotate("2"),)
    ),
    "a first trigger, set later, rotates": Case(
        a_wish(rotation_trigger="1"), Observed(a_key()), (Rotate("1"),)
    ),
    "a trigger that was carried out does not rotate": Case(
        a_wish(rotation_trigger="1"), Observed(a_key(rotation_marker="1"))
    ),
    "a trigger that was removed does not rotate": Case(
        a_wish(), Observed(a_key(rotation_marker="1"))
    ),
    "a version as old as the interval is replaced": Case(
        a_wish(rotation_interval=HOURLY), Observed(a_key(versions=(OLD,))), (Rotate(None),)
    ),
    "a version younger than the interval is not replaced": Case(
        a_wish(rotation_interval=HOURLY), Observed(a_key(versions=(YOUNG,)))
    ),
    "the age that counts is that of the newest version": Case(
        a_wish(rotation_interval=HOURLY),
        Observed(a_key(versions=(a_version(1, VersionState.RETIRED), a_version(2, age=-HOURLY)))),
    ),
    "trigger and interval together rotate once": Case(
        a_wish(rotation_trigger="2", rotation_interval=HOURLY), Observed(a_key()), (Rotate("2"),)
    ),
    "nothing rotates while a version is pending": Case(
        a_wish(rotation_trigger="2", rotation_interval=timedelta(seconds=10)),
        Observed(a_rotating_key(), users=(a_user(pending=True),)),
    ),
    "nothing rotates while a provider has not loaded its binding": Case(
        a_wish(rotation_trigger="2"), Observed(a_key(), users=(a_user(pending=True),))
    ),
    "a provider that left for another key does not hold up a rotation": Case(
        a_wish(rotation_trigger="2"),
        Observed(a_key(), users=(a_user(key_id=OTHER_KEY_ID, pending=True),)),
        (Rotate("2"),),
    ),
    "a suspended key does not rotate": Case(
        a_wish(rotation_trigger="2"), Observed(a_key(state=KeyState.SUSPENDED))
    ),
    "a key that is resumed rotates after that": Case(
        a_wish(rotation_trigger="2", suspended=False),
        Observed(a_key(state=KeyState.SUSPENDED)),
        (Resume(),),
    ),
    "a key that is to be suspended is not rotated before": Case(
        a_wish(rotation_trigger="2", suspended=True), Observed(a_key()), (Suspend(),)
    ),
    "an expired key does not rotate": Case(
        a_wish(rotation_trigger="2"), Observed(a_key(expires_at=NOW))
    ),
    "an expired key gets a later date and rotates after that": Case(
        a_wish(rotation_trigger="2", expires_at=LATER),
        Observed(a_key(expires_at=NOW)),
        (Edit(Edits(expires_at=LATER)),),
    ),
    "an imported key rotates from its Secret": Case(
        a_wish(rotation_trigger="2", material=SECRET),
        Observed(a_key(imported=True)),
        (Rotate("2"),),
    ),
    "an imported key without a Secret does not rotate": Case(
        a_wish(rotation_trigger="2", rotation_interval=HOURLY), Observed(a_key(imported=True))
    ),
    "a standard key does not rotate": Case(
        a_wish(rotation_trigger="2", kind=KeyKind.STANDARD),
        Observed(a_key(kind=KeyKind.STANDARD)),
    ),
    "edits come before the rotation, and it before a suspension": Case(
        a_wish(display_name="other", rotation_trigger="2"),
        Observed(a_key()),
        (Edit(Edits(name="other")), Rotate("2")),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_next_actions(case: Case):
    actions = next_actions(case.wanted, case.observed, NOW)

    assert case.actions == actions


def test_an_edit_names_the_fields_that_it_enforces():
    edit = Edit(Edits(name="other", expires_at=LATER))

    assert edit.fields == "spec.displayName, spec.expirationDate"


@pytest.mark.parametrize(
    ("wanted", "key", "action"),
    [
        pytest.param(a_wish(), None, None, id="a resource that never had a key has nothing to do"),
        pytest.param(
            a_wish(adopt=KEY_ID), None, None, id="a key that was never adopted is not touched"
        ),
        pytest.param(
            a_wish(), a_key(state=KeyState.DESTROYED), None, id="a deleted key is done with"
        ),
        pytest.param(
            a_wish(retain=True), a_key(state=KeyState.DESTROYED), None, id="even a retained one"
        ),
        pytest.param(a_wish(), a_key(), Delete(KEY_ID), id="a key is deleted with its resource"),
        pytest.param(
            a_wish(retain=True), a_key(), Release(KEY_ID), id="a key is kept when asked for"
        ),
        pytest.param(
            a_wish(adopt=KEY_ID), a_key(), Delete(KEY_ID), id="an adopted key is like any other"
        ),
    ],
)
def test_last_action(wanted, key, action):
    assert last_action(wanted, key) == action


@pytest.mark.parametrize(
    ("wanted", "key", "time"),
    [
        pytest.param(a_wish(), a_key(), None, id="never without an interval"),
        pytest.param(
            a_wish(rotation_interval=HOURLY),
            a_key(versions=(a_version(1), a_version(2, age=HOURLY / 2))),
            NOW + HOURLY / 2,
            id="an interval after the newest version",
        ),
        pytest.param(
            a_wish(rotation_interval=HOURLY), a_key(imported=True), None, id="never when imported"
        ),
    ],
)
def test_next_rotation(wanted, key, time):
    assert next_rotation(wanted, key) == time
