"""The life of keys: edit, suspend, rotate without a provider, delete.

The states are in test_key_states, rotation under providers in test_rotation.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keycore.domain.keys import KeyState, VersionState
from keycore.errors import (
    InvalidRequestError,
    KeyDeletedError,
    PayloadRequiredError,
    StoreUnavailableError,
)
from keycore.service.creation import fold_to_aes_256
from keycore.service.keys import Edits
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    material_of,
    put_state,
    root_key,
)


def test_an_edit_changes_what_it_names_and_nothing_else(here: FakeInstallation) -> None:
    key = root_key(here, name="old", description="before")
    here.clock.advance(seconds=5)
    until = here.clock.now() + timedelta(days=1)

    renamed = here.core.keys.edit(CALLER, key.id, Edits(name="new"))
    described = here.core.keys.edit(CALLER, key.id, Edits(description="after"))
    limited = here.core.keys.edit(CALLER, key.id, Edits(expires_at=until))

    assert renamed == replace(key, name="new", updated_at=here.clock.now())
    assert described == replace(renamed, description="after")
    assert limited == replace(described, expires_at=until)
    assert here.core.keys.get(CALLER, key.id) == limited


@pytest.mark.parametrize(
    "edits",
    [pytest.param(Edits(name="x"), id="name"), pytest.param(Edits(description="x"), id="text")],
)
def test_an_edit_out_of_bounds_changes_nothing(here: FakeInstallation, edits: Edits) -> None:
    key = root_key(here)

    with pytest.raises(InvalidRequestError):
        here.core.keys.edit(CALLER, key.id, edits)
    with pytest.raises(InvalidRequestError):
        here.core.keys.edit(CALLER, key.id, Edits(name="new", expires_at=here.clock.now()))

    assert here.core.keys.get(CALLER, key.id) == key


def test_moving_the_expiration_date_revives_an_expired_key(here: FakeInstallation) -> None:
    key = root_key(here, expires_at=here.clock.now() + timedelta(seconds=1))
    here.clock.advance(seconds=1)
    later = here.clock.now() + timedelta(days=1)

    here.core.keys.edit(CALLER, key.id, Edits(expires_at=later))

    assert here.core.wrapping.wrap(CALLER, here.instance.id, key.id).version == key.current


def test_a_suspended_key_works_again_once_resumed(here: FakeInstallation) -> None:
    key = root_key(here)
    closed = here.core.wrapping.wrap(CALLER, here.instance.id, key.id, b"data key").ciphertext

    here.core.keys.suspend(CALLER, key.id)
    here.core.keys.resume(CALLER, key.id)

    opened = here.core.wrapping.unwrap(CALLER, here.instance.id, key.id, closed)
    assert opened.plaintext == b"data key"


@pytest.mark.parametrize("operation", ["suspend", "resume", "release"])
def test_repeating_a_change_changes_nothing(here: FakeInstallation, operation: str) -> None:
    """What is returned is what is stored, times included."""
    change = getattr(here.core.keys, operation)
    key = root_key(here)
    once = change(CALLER, key.id)
    writes = here.store.changes_since(0).sequence
    here.clock.advance(hours=1)

    assert change(CALLER, key.id) == once
    assert here.core.keys.get(CALLER, key.id) == once
    assert here.store.changes_since(0).sequence == writes


@pytest.mark.parametrize("operation", ["suspend", "resume", "edit", "adopt"])
def test_a_deleted_key_is_never_changed_again(here: FakeInstallation, operation: str) -> None:
    key = root_key(here)
    tombstone = here.core.keys.delete(CALLER, key.id)
    changes = {
        "suspend": lambda: here.core.keys.suspend(CALLER, key.id),
        "resume": lambda: here.core.keys.resume(CALLER, key.id),
        "edit": lambda: here.core.keys.edit(CALLER, key.id, Edits(name="new name")),
        "adopt": lambda: here.core.keys.adopt(CALLER, key.id, "owner", within=here.instance.id),
    }

    with pytest.raises(KeyDeletedError):
        changes[operation]()

    assert here.core.keys.get(CALLER, key.id) == tombstone


def test_a_rotation_adds_a_version_and_retires_the_one_before(here: FakeInstallation) -> None:
    until = here.clock.now() + timedelta(days=9)
    key = root_key(here, expires_at=until)
    here.clock.advance(days=1)

    rotated = here.core.keys.rotate(CALLER, key.id)

    assert [(v.number, v.state) for v in rotated.versions] == [
        (1, VersionState.RETIRED),
        (2, VersionState.ACTIVE),
    ]
    assert rotated.versions[0].wrapped == key.versions[0].wrapped
    assert material_of(here, rotated) != material_of(here, key)
    assert (rotated.rotated_at, rotated.expires_at) == (here.clock.now(), until)
    assert here.core.keys.get(CALLER, key.id) == rotated


def test_an_imported_key_is_rotated_with_new_material_alone(here: FakeInstallation) -> None:
    key = root_key(here, material=bytes(32))

    with pytest.raises(PayloadRequiredError):
        here.core.keys.rotate(CALLER, key.id)
    with pytest.raises(InvalidRequestError, match="256, 384 or 512"):
        here.core.keys.rotate(CALLER, key.id, material=bytes(31))
    assert here.core.keys.get(CALLER, key.id) == key
    rotated = here.core.keys.rotate(CALLER, key.id, material=bytes(range(64)))

    assert material_of(here, rotated) == fold_to_aes_256(bytes(range(64)))


def test_a_generated_key_takes_no_material(here: FakeInstallation) -> None:
    key = root_key(here)

    with pytest.raises(InvalidRequestError) as refused:
        here.core.keys.rotate(CALLER, key.id, material=bytes(32))

    assert refused.value.field == "payload"
    assert here.core.keys.get(CALLER, key.id) == key


def test_deletion_leaves_a_tombstone_without_material(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.keys.rotate(CALLER, key.id)
    here.clock.advance(hours=1)

    tombstone = here.core.keys.delete(CALLER, key.id)

    assert tombstone.state is KeyState.DESTROYED
    assert tombstone.deleted_at == here.clock.now()
    assert [(v.state, v.wrapped) for v in tombstone.versions] == [
        (VersionState.DESTROYED, None)
    ] * 2
    assert here.core.keys.get(CALLER, key.id, within=here.instance.id) == tombstone


def test_deletion_evicts_every_version_from_the_token_and_scrubs_the_store(
    here: FakeInstallation,
) -> None:
    """Also when this process has never used the key."""
    key = root_key(here)
    rotated = here.core.keys.rotate(CALLER, key.id)
    here.token.forgotten.clear()

    here.core.keys.delete(CALLER, key.id)

    assert set(here.token.forgotten) == {version.id for version in rotated.versions}
    assert here.store.scrubs == 1


def test_a_deleted_key_stops_working_at_once_in_its_own_process(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)

    here.core.keys.delete(CALLER, key.id)

    with pytest.raises(KeyDeletedError):
        here.core.wrapping.wrap(CALLER, here.instance.id, key.id)


def test_a_deletion_is_answered_although_the_store_cannot_be_scrubbed_now(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = root_key(here)

    def busy() -> None:
        raise StoreUnavailableError("the store is too busy to be scrubbed")

    monkeypatch.setattr(here.store, "scrub", busy)

    assert here.core.keys.delete(CALLER, key.id).state is KeyState.DESTROYED


def test_a_suspended_key_can_be_deleted_for_ever(here: FakeInstallation) -> None:
    key = root_key(here)
    put_state(here, key, KeyState.SUSPENDED)
    here.core.keys.delete(CALLER, key.id)

    with pytest.raises(KeyDeletedError):
        here.core.keys.delete(CALLER, key.id)


def test_nothing_is_deleted_while_the_store_is_away(here: FakeInstallation) -> None:
    key = root_key(here)
    here.token.forgotten.clear()
    here.store.lost = True
    with pytest.raises(StoreUnavailableError):
        here.core.keys.delete(CALLER, key.id)
    here.store.lost = False

    assert here.core.keys.get(CALLER, key.id) == key
    assert here.token.forgotten == []
