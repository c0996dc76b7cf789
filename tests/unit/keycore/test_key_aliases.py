"""Aliases: further names of a key, unique in its instance, and proved by its record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keycore.domain.ids import KeyId, new_uuid
from keycore.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidRequestError,
    KeyDeletedError,
    KeyNotFoundError,
)
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import another_instance, root_key


def test_an_alias_leads_to_its_key(here: FakeInstallation) -> None:
    key = root_key(here, aliases=("first",))

    here.core.keys.add_alias(CALLER, key.id, "second")

    for alias in ("first", "second"):
        assert here.core.keys.resolve(alias, within=here.instance.id) == key.id


def test_an_alias_of_another_instance_is_not_found(here: FakeInstallation) -> None:
    root_key(here, aliases=("mine",))

    with pytest.raises(KeyNotFoundError):
        here.core.keys.resolve("mine", within=another_instance(here))


def test_giving_an_alias_twice_is_once(here: FakeInstallation) -> None:
    key = root_key(here, aliases=("same",))

    assert here.core.keys.add_alias(CALLER, key.id, "same") == key


def test_an_alias_of_another_key_is_refused(here: FakeInstallation) -> None:
    root_key(here, aliases=("taken",))
    other = root_key(here)

    with pytest.raises(AlreadyExistsError):
        here.core.keys.add_alias(CALLER, other.id, "taken")
    with pytest.raises(AlreadyExistsError):
        root_key(here, aliases=("taken",))


def test_a_removed_alias_leads_nowhere_and_removing_it_again_changes_nothing(
    here: FakeInstallation,
) -> None:
    key = root_key(here, aliases=("gone", "kept"))

    left = here.core.keys.remove_alias(CALLER, key.id, "gone")

    assert left.aliases == ("kept",)
    assert here.core.keys.remove_alias(CALLER, key.id, "gone") == left
    with pytest.raises(KeyNotFoundError):
        here.core.keys.resolve("gone", within=here.instance.id)


def test_a_key_has_five_aliases_at_most(here: FakeInstallation) -> None:
    key = root_key(here, aliases=tuple(f"alias-{n}" for n in range(5)))

    with pytest.raises(InvalidRequestError, match="up to 5"):
        here.core.keys.add_alias(CALLER, key.id, "one-more")
    with pytest.raises(InvalidRequestError, match="up to 5"):
        root_key(here, aliases=tuple(f"other-{n}" for n in range(6)))


@pytest.mark.parametrize(
    "alias",
    [
        pytest.param("x", id="one character"),
        pytest.param("x" * 91, id="91 characters"),
        pytest.param("a b", id="space"),
        pytest.param("a/b", id="slash"),
        pytest.param("ä" * 3, id="not ASCII"),
        pytest.param("ab\n", id="line break"),
        pytest.param(new_uuid(), id="a key id"),
        pytest.param(new_uuid().upper(), id="a key id in capitals"),
    ],
)
def test_a_malformed_alias_is_refused(here: FakeInstallation, alias: str) -> None:
    key = root_key(here)

    with pytest.raises(InvalidRequestError):
        here.core.keys.add_alias(CALLER, key.id, alias)


@pytest.mark.parametrize("alias", ["ab", "x" * 90, "A-Z_09"])
def test_the_bounds_of_an_alias_are_accepted(here: FakeInstallation, alias: str) -> None:
    assert root_key(here, aliases=(alias,)).aliases == (alias,)


def test_one_alias_twice_in_a_request_is_refused(here: FakeInstallation) -> None:
    with pytest.raises(InvalidRequestError, match="different"):
        root_key(here, aliases=("same", "same"))


def test_deleting_a_key_sets_its_aliases_free(here: FakeInstallation) -> None:
    key = root_key(here, aliases=("free",))
    here.core.keys.delete(CALLER, key.id)

    with pytest.raises(KeyNotFoundError):
        here.core.keys.resolve("free", within=here.instance.id)
    assert root_key(here, aliases=("free",)).aliases == ("free",)
    with pytest.raises(KeyDeletedError):
        here.core.keys.add_alias(CALLER, key.id, "again")


def test_an_index_that_leads_to_another_key_is_refused(here: FakeInstallation) -> None:
    """Whoever changes the store cannot make an alias open another key."""
    root_key(here, aliases=("mine",))
    other = root_key(here)
    here.store._tables.aliases[here.instance.id, "mine"] = KeyId(other.id)

    with pytest.raises(IntegrityError):
        here.core.keys.resolve("mine", within=here.instance.id)


def test_an_alias_written_into_a_record_is_refused(here: FakeInstallation) -> None:
    key = root_key(here)
    with here.store.writing() as rows:
        saved = rows.keys.get(key.id)
        assert saved is not None
        forged = replace(saved, record=replace(saved.record, aliases=("forged",)))
        rows.keys.save(forged)

    with pytest.raises(IntegrityError):
        here.core.keys.resolve("forged", within=here.instance.id)


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param(("",), id="empty"),
        pytest.param(("x" * 129,), id="129 characters"),
        pytest.param(("a\nb",), id="line break"),
        pytest.param(tuple(str(n) for n in range(31)), id="31 tags"),
    ],
)
def test_malformed_tags_are_refused(here: FakeInstallation, tags: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError):
        root_key(here, tags=tags)
