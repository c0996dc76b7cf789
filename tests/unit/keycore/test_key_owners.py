"""Owners and their markers: every call of a Kubernetes resource can be repeated safely."""

from __future__ import annotations

import pytest

from keycore.domain.keys import Key, KeyState
from keycore.errors import (
    KeyDeletedError,
    KeyOwnedError,
)
from keycore.ports import KeyFilter
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    another_instance,
    root_key,
)


def test_a_rotation_with_the_last_marker_is_not_repeated(here: FakeInstallation) -> None:
    key = root_key(here)
    once = here.core.keys.rotate(CALLER, key.id, marker="a")

    again = here.core.keys.rotate(CALLER, key.id, marker="a")

    assert again == once
    assert (len(again.versions), again.rotation_marker) == (2, "a")


def test_markers_back_and_forth_rotate_each_time(here: FakeInstallation) -> None:
    key = root_key(here, rotation_marker="a")

    for marker in ("b", "a", "b"):
        here.core.keys.rotate(CALLER, key.id, marker=marker)

    assert len(here.core.keys.get(CALLER, key.id).versions) == 4


def test_the_marker_of_creation_counts_as_carried_out(here: FakeInstallation) -> None:
    key = root_key(here, rotation_marker="a")

    assert here.core.keys.rotate(CALLER, key.id, marker="a") == key


def test_a_rotation_without_a_marker_keeps_the_last_one(here: FakeInstallation) -> None:
    key = root_key(here, rotation_marker="a")

    rotated = here.core.keys.rotate(CALLER, key.id)

    assert (rotated.rotation_marker, len(rotated.versions)) == ("a", 2)


def test_an_empty_marker_is_a_marker(here: FakeInstallation) -> None:
    """Otherwise an owner whose trigger is the empty text would rotate for ever."""
    key = root_key(here, rotation_marker="a")

    here.core.keys.rotate(CALLER, key.id, marker="")
    here.core.keys.rotate(CALLER, key.id, marker="")

    assert len(here.core.keys.get(CALLER, key.id).versions) == 2


def test_creating_twice_for_one_owner_makes_one_key(here: FakeInstallation) -> None:
    first = root_key(here, owner="demo/etcd")

    second = root_key(here, owner="demo/etcd", name="another name")

    assert second == first
    assert here.core.keys.count(CALLER, KeyFilter()) == 1
    assert here.core.keys.owned_by("demo/etcd") == first
    assert here.core.keys.owned_by("demo/other") is None


def test_keys_without_an_owner_are_all_made(here: FakeInstallation) -> None:
    assert root_key(here).id != root_key(here).id


def test_an_owner_whose_key_was_deleted_gets_no_new_one(here: FakeInstallation) -> None:
    key = root_key(here, owner="demo/etcd")
    here.core.keys.delete(CALLER, key.id)

    with pytest.raises(KeyDeletedError):
        root_key(here, owner="demo/etcd")


def test_an_owner_whose_key_lies_in_another_instance_gets_no_second_one(
    here: FakeInstallation,
) -> None:
    key = root_key(here, owner="demo/etcd")

    with pytest.raises(KeyOwnedError, match=key.id):
        here.core.keys.create(CALLER, another_instance(here), NewKey("key", owner="demo/etcd"))


def test_an_existing_key_is_adopted_once(here: FakeInstallation) -> None:
    key = root_key(here, rotation_marker="before")

    def adopt() -> Key:
        return here.core.keys.adopt(
            CALLER, key.id, "demo/etcd", within=here.instance.id, rotation_marker="now"
        )

    adopted = adopt()
    here.clock.advance(hours=1)

    assert (adopted.owner, adopted.rotation_marker) == ("demo/etcd", "now")
    assert adopted.versions == key.versions
    assert adopt() == adopted
    assert root_key(here, owner="demo/etcd") == adopted


def test_a_managed_key_is_not_adopted_by_another_owner(here: FakeInstallation) -> None:
    key = root_key(here, owner="demo/etcd")

    with pytest.raises(KeyOwnedError):
        here.core.keys.adopt(CALLER, key.id, "demo/other", within=here.instance.id)

    assert here.core.keys.get(CALLER, key.id) == key


def test_an_owner_with_a_key_adopts_no_second_one(here: FakeInstallation) -> None:
    root_key(here, owner="demo/etcd")
    free = root_key(here)

    with pytest.raises(KeyOwnedError):
        here.core.keys.adopt(CALLER, free.id, "demo/etcd", within=here.instance.id)

    assert here.core.keys.get(CALLER, free.id) == free


def test_a_released_key_lives_on_and_can_be_adopted_again(here: FakeInstallation) -> None:
    key = root_key(here, owner="demo/etcd")

    released = here.core.keys.release(CALLER, key.id)
    adopted = here.core.keys.adopt(CALLER, key.id, "demo/new", within=here.instance.id)

    assert (released.owner, released.state, released.versions) == (
        None,
        KeyState.ACTIVE,
        key.versions,
    )
    assert adopted.owner == "demo/new"
    assert root_key(here, owner="demo/etcd").id != key.id
