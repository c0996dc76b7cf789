"""States × actions, and the pure rules of a key's life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keycore.domain.ids import KeyId, VersionId
from keycore.domain.keys import (
    Key,
    KeyKind,
    KeyState,
    KeyVersion,
    Operation,
    VersionState,
    check_description,
    check_expiry,
    check_material,
    check_name,
    destroyed,
    ensure_allowed,
    with_new_version,
    with_pending_activated,
)
from keycore.errors import (
    InvalidRequestError,
    KeyDeletedError,
    KeyplaneError,
    KeyStateError,
    NotARootKeyError,
)
from keycore.ports import KeyFilter
from keycore.service.wrapping import Unwrapped
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import KEY, NOW, put_state, root_key

STATES = {
    "pre-active": KeyState.PRE_ACTIVE,
    "active": KeyState.ACTIVE,
    "suspended": KeyState.SUSPENDED,
    "deactivated": KeyState.DEACTIVATED,
    "destroyed": KeyState.DESTROYED,
}

ALLOWED, STATE, GONE = None, KeyStateError, KeyDeletedError

TABLE: dict[str, tuple[type[KeyplaneError] | None, ...]] = {
    # action:     pre-active, active,  suspended, deactivated, destroyed
    "get": (ALLOWED, ALLOWED, ALLOWED, ALLOWED, ALLOWED),
    "wrap": (STATE, ALLOWED, STATE, STATE, GONE),
    "unwrap": (STATE, ALLOWED, STATE, ALLOWED, GONE),
    "rewrap": (STATE, ALLOWED, STATE, STATE, GONE),
    "rotate": (STATE, ALLOWED, STATE, STATE, GONE),
    "bind": (STATE, ALLOWED, STATE, STATE, GONE),
    "delete": (ALLOWED, ALLOWED, ALLOWED, ALLOWED, GONE),
}
"""The REST contract's table; binding to a provider is a promise to wrap."""

Action = Callable[[FakeInstallation, KeyId, bytes], object]

ACTIONS: dict[str, Action] = {
    "get": lambda here, key_id, _: here.core.keys.get(CALLER, key_id, within=here.instance.id),
    "wrap": lambda here, key_id, _: here.core.wrapping.wrap(CALLER, here.instance.id, key_id),
    "unwrap": lambda here, key_id, ciphertext: here.core.wrapping.unwrap(
        CALLER, here.instance.id, key_id, ciphertext
    ),
    "rewrap": lambda here, key_id, ciphertext: here.core.wrapping.rewrap(
        CALLER, here.instance.id, key_id, ciphertext
    ),
    "rotate": lambda here, key_id, _: here.core.keys.rotate(CALLER, key_id),
    "bind": lambda here, key_id, _: here.core.providers.bind(CALLER, "keyplane", key_id),
    "delete": lambda here, key_id, _: here.core.keys.delete(CALLER, key_id),
}

CASES = [
    pytest.param(action, state, outcome, id=f"{action}-{name}")
    for action, row in TABLE.items()
    for (name, state), outcome in zip(STATES.items(), row, strict=True)
]


@pytest.mark.parametrize(("action", "state", "outcome"), CASES)
def test_an_action_is_allowed_in_exactly_the_states_of_the_contract(
    here: FakeInstallation,
    action: str,
    state: KeyState,
    outcome: type[KeyplaneError] | None,
) -> None:
    key = root_key(here)
    ciphertext = here.core.wrapping.wrap(CALLER, here.instance.id, key.id).ciphertext
    put_state(here, key, state)
    before = here.core.keys.get(CALLER, key.id)
    assert before.state_at(here.clock.now()) is state

    if outcome is None:
        ACTIONS[action](here, key.id, ciphertext)
        return

    with pytest.raises(outcome) as refused:
        ACTIONS[action](here, key.id, ciphertext)
    assert type(refused.value) is outcome
    assert here.core.keys.get(CALLER, key.id) == before


@pytest.mark.parametrize("state", [pytest.param(s, id=n) for n, s in STATES.items()])
def test_a_list_leaves_out_destroyed_keys_alone_unless_asked(
    here: FakeInstallation, state: KeyState
) -> None:
    key = root_key(here)
    put_state(here, key, state)

    listed = here.core.keys.page(CALLER, KeyFilter(here.instance.id)).keys
    everything = here.core.keys.page(CALLER, KeyFilter(here.instance.id, deleted=True)).keys

    assert [one.id for one in listed] == ([] if state is KeyState.DESTROYED else [key.id])
    assert [one.id for one in everything] == [key.id]
    assert here.core.keys.count(CALLER, KeyFilter(here.instance.id)) == len(listed)


def test_an_expired_key_unwraps_without_handing_out_a_new_ciphertext(
    here: FakeInstallation,
) -> None:
    key = root_key(here)
    old = here.core.wrapping.wrap(CALLER, here.instance.id, key.id, b"data key").ciphertext
    rotated = here.core.keys.rotate(CALLER, key.id)

    def unwrapped() -> Unwrapped:
        return here.core.wrapping.unwrap(CALLER, here.instance.id, key.id, old)

    assert unwrapped().rewrapped is not None
    put_state(here, rotated, KeyState.DEACTIVATED)

    assert (unwrapped().plaintext, unwrapped().rewrapped) == (b"data key", None)


def test_a_key_expires_at_its_expiration_date_and_not_before() -> None:
    key = replace(KEY, expires_at=NOW)

    assert key.state_at(NOW - timedelta(microseconds=1)) is KeyState.ACTIVE
    assert key.state_at(NOW) is KeyState.DEACTIVATED
    assert key.state_at(NOW + timedelta(days=1)) is KeyState.DEACTIVATED


def test_a_key_without_an_expiration_date_never_expires() -> None:
    assert replace(KEY, expires_at=None).state_at(NOW + timedelta(days=9999)) is KeyState.ACTIVE


@pytest.mark.parametrize("state", [KeyState.SUSPENDED, KeyState.DESTROYED, KeyState.PRE_ACTIVE])
def test_expiry_never_makes_a_key_that_may_do_nothing_unwrap_again(state: KeyState) -> None:
    assert replace(KEY, state=state, expires_at=NOW).state_at(NOW) is state


def test_an_expired_key_suspended_and_resumed_is_still_expired(here: FakeInstallation) -> None:
    key = root_key(here, expires_at=here.clock.now() + timedelta(seconds=1))
    here.clock.advance(seconds=1)

    suspended = here.core.keys.suspend(CALLER, key.id)
    resumed = here.core.keys.resume(CALLER, key.id)

    assert suspended.state_at(here.clock.now()) is KeyState.SUSPENDED
    assert resumed.state_at(here.clock.now()) is KeyState.DEACTIVATED


@pytest.mark.parametrize("operation", list(Operation), ids=lambda operation: operation.name.lower())
def test_a_standard_key_does_nothing_that_needs_a_root_key(operation: Operation) -> None:
    with pytest.raises(NotARootKeyError, match=f"cannot {operation.value}"):
        ensure_allowed(replace(KEY, kind=KeyKind.STANDARD), operation, NOW)


def test_that_a_standard_key_is_deleted_is_said_first() -> None:
    with pytest.raises(KeyDeletedError):
        ensure_allowed(
            destroyed(replace(KEY, kind=KeyKind.STANDARD), NOW, by="uid:0"), Operation.WRAP, NOW
        )


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        pytest.param(KeyState.SUSPENDED, "resume", id="suspended"),
        pytest.param(KeyState.DEACTIVATED, "expired", id="deactivated"),
        pytest.param(KeyState.PRE_ACTIVE, "", id="pre-active"),
    ],
)
def test_a_refusal_names_the_state_and_the_way_out(state: KeyState, hint: str) -> None:
    with pytest.raises(KeyStateError, match=state.name.lower()) as refused:
        ensure_allowed(replace(KEY, state=state, expires_at=None), Operation.WRAP, NOW)

    assert hint in refused.value.hint


# --- versions ------------------------------------------------------------------


def version(number: int, state: VersionState) -> KeyVersion:
    """Return a version with an id made from its number."""
    return KeyVersion(VersionId(f"0c000000-0000-4000-8000-{number:012}"), number, state, NOW, b"w")


def key_with(*states: VersionState) -> Key:
    """Return a key with versions in these states."""
    return replace(KEY, versions=tuple(version(n, s) for n, s in enumerate(states, start=1)))


PENDING, ACTIVE, RETIRED = VersionState.PENDING, VersionState.ACTIVE, VersionState.RETIRED
LATER = NOW + timedelta(days=7)


def states(key: Key) -> list[VersionState]:
    """Return the states of a key's versions in order."""
    return [version.state for version in key.versions]


def test_a_new_active_version_retires_the_one_before() -> None:
    key = with_new_version(key_with(RETIRED, ACTIVE), version(3, ACTIVE), LATER)

    assert states(key) == [RETIRED, RETIRED, ACTIVE]
    assert (key.current.number, key.pending, key.updated_at) == (3, None, LATER)


def test_a_pending_version_leaves_the_active_one_in_charge() -> None:
    key = with_new_version(key_with(ACTIVE), version(2, PENDING), LATER)

    assert states(key) == [ACTIVE, PENDING]
    assert key.current.number == 1
    assert key.pending == key.versions[1]


def test_activating_makes_the_pending_version_the_only_active_one() -> None:
    key = with_pending_activated(key_with(RETIRED, ACTIVE, PENDING), LATER)

    assert states(key) == [RETIRED, RETIRED, ACTIVE]
    assert key.updated_at == LATER


def test_a_destroyed_key_keeps_its_story_and_no_material() -> None:
    tombstone = destroyed(key_with(RETIRED, ACTIVE), LATER, by="uid:7")

    assert tombstone.state is KeyState.DESTROYED
    assert [v.wrapped for v in tombstone.versions] == [None, None]
    assert states(tombstone) == [VersionState.DESTROYED] * 2
    assert (tombstone.updated_at, tombstone.deleted_at) == (LATER, LATER)
    assert (tombstone.deleted_by, tombstone.aliases) == ("uid:7", ())
    assert (tombstone.current.number, tombstone.pending) == (2, None)
    assert (tombstone.id, tombstone.name, tombstone.created_at) == (KEY.id, KEY.name, NOW)


def test_a_key_was_rotated_when_its_newest_version_was_made() -> None:
    newest = replace(version(2, ACTIVE), created_at=LATER)

    assert key_with(ACTIVE).rotated_at is None
    assert replace(KEY, versions=(version(1, RETIRED), newest)).rotated_at == LATER


def test_a_version_is_found_by_its_id_in_its_own_key_alone() -> None:
    key = key_with(RETIRED, ACTIVE)

    assert key.version(key.versions[0].id) == key.versions[0]
    assert key.version(version(9, ACTIVE).id) is None


def test_material_never_shows_in_a_representation() -> None:
    key = replace(KEY, versions=(replace(version(1, ACTIVE), wrapped=b"planted"),))

    assert "planted" not in repr(key)


# --- bounds of what describes a key ----------------------------------------------


@pytest.mark.parametrize("length", [2, 90])
def test_a_name_within_the_bounds_is_accepted(length: int) -> None:
    assert check_name("é" * length) == "é" * length


@pytest.mark.parametrize("length", [2, 240])
def test_a_description_within_the_bounds_is_accepted(length: int) -> None:
    assert check_description("é" * length) == "é" * length


def test_a_description_may_be_absent() -> None:
    assert check_description(None) is None


REFUSED_TEXTS = [
    pytest.param("", id="empty"),
    pytest.param("x", id="one-character"),
    pytest.param("two\nlines", id="line-feed"),
    pytest.param("a\x00b", id="nul"),
    pytest.param("a\x1b[31m", id="escape"),
    pytest.param("a\u202eb", id="direction-override"),
    pytest.param("a\ud800", id="lone-surrogate"),
    pytest.param("x" * 241, id="too-long"),
]


@pytest.mark.parametrize("text", REFUSED_TEXTS)
def test_a_text_that_could_deceive_a_reader_or_a_log_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_name(text)
    assert refused.value.field == "name"

    with pytest.raises(InvalidRequestError) as refused:
        check_description(text)
    assert refused.value.field == "description"
    assert text == "" or text not in refused.value.message


def test_a_name_of_91_characters_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="2 to 90"):
        check_name("x" * 91)


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_material_of_an_allowed_size_is_accepted(bits: int) -> None:
    assert check_material(bytes(bits // 8)) == bytes(bits // 8)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 47, 63, 65])
def test_material_of_any_other_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_material(bytes(size))

    assert refused.value.field == "payload"


def test_an_expiration_date_must_lie_in_the_future() -> None:
    soon = NOW + timedelta(microseconds=1)

    assert check_expiry(None, NOW) is None
    assert check_expiry(soon, NOW) == soon
    with pytest.raises(InvalidRequestError) as refused:
        check_expiry(NOW, NOW)
    assert refused.value.field == "expirationDate"
