"""Data keys under root keys: what opens, what never opens, and what a refusal shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycore.domain.envelope import AES_256_GCM, PLAINTEXT_BYTES_MAX, Face, parse
from keycore.domain.ids import KeyId, VersionId, new_uuid, uuid_bytes
from keycore.domain.keys import Key, KeyVersion, VersionState, with_new_version
from keycore.errors import (
    CiphertextMalformedError,
    CiphertextRejectedError,
    IntegrityError,
    InvalidRequestError,
    KeyNotFoundError,
    KeyplaneError,
    TokenUnavailableError,
)
from keycore.service.cipher import EnvelopeCipher
from keycore.service.creation import NewKey
from keycore.service.use_budget import UseBudget
from keycore.service.wrapping import Unwrapped, Wrapped
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.unit.keycore.examples import another_instance, root_key, save_key, tamper_key

DATA_KEY = bytes(range(32))


def wrap(here: FakeInstallation, key: Key, aad: Sequence[str] = ()) -> bytes:
    """Wrap the fixed data key."""
    return here.core.wrapping.wrap(CALLER, key.instance_id, key.id, DATA_KEY, aad).ciphertext


def unwrap(
    here: FakeInstallation, key: Key, ciphertext: bytes, aad: Sequence[str] = ()
) -> Unwrapped:
    """Unwrap in the key's own instance."""
    return here.core.wrapping.unwrap(CALLER, key.instance_id, key.id, ciphertext, aad)


def refusal(
    here: FakeInstallation, key: Key, ciphertext: bytes, aad: Sequence[str] = ()
) -> KeyplaneError:
    """Return the error of an unwrap that must fail, after trying rewrap as well."""
    with pytest.raises(KeyplaneError) as refused:
        unwrap(here, key, ciphertext, aad)
    with pytest.raises(type(refused.value)):
        here.core.wrapping.rewrap(CALLER, key.instance_id, key.id, ciphertext, aad)
    return refused.value


def assert_rejected(error: KeyplaneError) -> None:
    """Check that an error is the one rejection, which shows no reason."""
    assert type(error) is CiphertextRejectedError
    assert vars(error) == vars(CiphertextRejectedError())
    assert error.args == CiphertextRejectedError().args
    assert error.__cause__ is None


# --- what opens --------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=100), st.lists(st.text(max_size=20), max_size=5))
def test_what_was_wrapped_is_unwrapped_under_the_same_aad(data: bytes, aad: list[str]) -> None:
    here = fake_installation()
    key = root_key(here)

    wrapped = here.core.wrapping.wrap(CALLER, here.instance.id, key.id, data, aad)

    assert unwrap(here, key, wrapped.ciphertext, aad) == Unwrapped(data, key.current, None)
    assert wrapped == Wrapped(wrapped.ciphertext, key.current, None)
    assert len(wrapped.ciphertext) == AES_256_GCM.ciphertext_bytes(len(data))


def test_the_longest_plaintext_is_wrapped(here: FakeInstallation) -> None:
    key, longest = root_key(here), bytes(PLAINTEXT_BYTES_MAX)

    wrapped = here.core.wrapping.wrap(CALLER, here.instance.id, key.id, longest)

    assert unwrap(here, key, wrapped.ciphertext).plaintext == longest


def test_without_a_plaintext_the_token_makes_one_of_32_bytes(here: FakeInstallation) -> None:
    key = root_key(here)

    made = [here.core.wrapping.wrap(CALLER, here.instance.id, key.id) for _ in range(10)]

    assert len({wrapped.plaintext for wrapped in made}) == 10
    for wrapped in made:
        assert wrapped.plaintext is not None
        assert len(wrapped.plaintext) == 32
        assert unwrap(here, key, wrapped.ciphertext).plaintext == wrapped.plaintext


def test_the_same_data_key_is_never_wrapped_to_the_same_bytes(here: FakeInstallation) -> None:
    key = root_key(here)

    assert len({wrap(here, key) for _ in range(100)}) == 100


def test_the_header_names_the_version_that_wrapped(here: FakeInstallation) -> None:
    key = root_key(here)

    assert parse(wrap(here, key)).version_id == key.current.id


def test_no_plaintext_shows_in_a_representation(here: FakeInstallation) -> None:
    version = KeyVersion(VersionId("1"), 1, VersionState.ACTIVE, datetime.now(UTC), b"planted")

    assert "planted" not in repr(Wrapped(b"", version, b"planted"))
    assert "planted" not in repr(Unwrapped(b"planted", version, None))


# --- versions ----------------------------------------------------------------------


def test_an_older_ciphertext_opens_and_comes_back_under_the_current_version(
    here: FakeInstallation,
) -> None:
    key = root_key(here)
    old = wrap(here, key, ["a", "b"])
    rotated = here.core.keys.rotate(CALLER, key.id)

    opened = unwrap(here, key, old, ["a", "b"])

    assert (opened.plaintext, opened.version.id) == (DATA_KEY, key.current.id)
    assert opened.rewrapped is not None
    assert opened.rewrapped.version.id == key.current.id
    assert opened.rewrapped.rewrapped_version == rotated.current
    again = unwrap(here, key, opened.rewrapped.ciphertext, ["a", "b"])
    assert again == Unwrapped(DATA_KEY, rotated.current, None)


def test_a_ciphertext_of_a_newer_version_is_never_carried_back(here: FakeInstallation) -> None:
    """A cached key may lag behind the store, and hold as pending what is active elsewhere."""
    key = root_key(here)
    newer = KeyVersion(
        VersionId(new_uuid()), 2, VersionState.PENDING, key.created_at, here.token.generate_key()
    )
    lagging = with_new_version(key, newer, key.created_at)
    save_key(here, lagging)
    cipher = EnvelopeCipher(here.token, UseBudget(here.store))
    ciphertext = cipher.encrypt(Face.REST, lagging, newer, DATA_KEY, ())

    assert unwrap(here, key, ciphertext) == Unwrapped(DATA_KEY, newer, None)


def test_rewrap_carries_over_without_showing_the_plaintext(here: FakeInstallation) -> None:
    key = root_key(here)
    old = wrap(here, key, ["a"])
    rotated = here.core.keys.rotate(CALLER, key.id)

    rewrapped = here.core.wrapping.rewrap(CALLER, here.instance.id, key.id, old, ["a"])

    assert (rewrapped.version.id, rewrapped.rewrapped_version.id) == (
        key.current.id,
        rotated.current.id,
    )
    assert not hasattr(rewrapped, "plaintext")
    assert unwrap(here, key, rewrapped.ciphertext, ["a"]).version.id == rotated.current.id


def test_rewrap_under_the_same_version_gives_a_fresh_ciphertext(here: FakeInstallation) -> None:
    key = root_key(here)
    old = wrap(here, key)

    rewrapped = here.core.wrapping.rewrap(CALLER, here.instance.id, key.id, old)

    assert rewrapped.ciphertext != old
    assert unwrap(here, key, rewrapped.ciphertext).plaintext == DATA_KEY


# --- what never opens --------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_refused(here: FakeInstallation) -> None:
    """Format and suite are malformed; every other bit gives the one rejection."""
    key = root_key(here)
    ciphertext = wrap(here, key, ["aad"])

    for position in range(8 * len(ciphertext)):
        flipped = bytearray(ciphertext)
        flipped[position // 8] ^= 1 << position % 8
        error = refusal(here, key, bytes(flipped), ["aad"])
        if position < 16:
            assert type(error) is CiphertextMalformedError, position
        else:
            assert_rejected(error)


def test_a_truncated_ciphertext_is_refused(here: FakeInstallation) -> None:
    key = root_key(here)
    ciphertext = wrap(here, key)

    for length in range(len(ciphertext)):
        error = refusal(here, key, ciphertext[:length])
        if not AES_256_GCM.is_ciphertext_length(length):
            assert type(error) is CiphertextMalformedError, length
        else:
            assert_rejected(error)


@pytest.mark.parametrize("extra", [1, 16, PLAINTEXT_BYTES_MAX - len(DATA_KEY)])
def test_an_extended_ciphertext_is_rejected(here: FakeInstallation, extra: int) -> None:
    key = root_key(here)

    assert_rejected(refusal(here, key, wrap(here, key) + bytes(extra)))


def test_a_ciphertext_extended_beyond_the_bound_is_malformed(here: FakeInstallation) -> None:
    key = root_key(here)
    too_long = wrap(here, key) + bytes(PLAINTEXT_BYTES_MAX)

    assert type(refusal(here, key, too_long)) is CiphertextMalformedError


def test_a_ciphertext_opens_under_its_own_key_alone(here: FakeInstallation) -> None:
    key, other = root_key(here), root_key(here)

    assert_rejected(refusal(here, other, wrap(here, key)))


def test_the_same_material_under_two_keys_opens_no_ciphertext_of_the_other(
    here: FakeInstallation,
) -> None:
    """Even when the header is rewritten to name the other key's version."""
    key, twin = root_key(here, material=DATA_KEY), root_key(here, material=DATA_KEY)
    ciphertext = wrap(here, key)
    redirected = ciphertext[:2] + uuid_bytes(twin.current.id) + ciphertext[18:]

    assert_rejected(refusal(here, twin, ciphertext))
    assert_rejected(refusal(here, twin, redirected))


def test_a_key_moved_to_another_instance_opens_nothing_of_the_former_one(
    here: FakeInstallation,
) -> None:
    """Tenants stay apart even when a row is signed into the wrong one."""
    key = root_key(here)
    ciphertext = wrap(here, key)
    moved = replace(key, instance_id=another_instance(here))
    save_key(here, moved)

    assert_rejected(refusal(here, moved, ciphertext))


def test_a_ciphertext_names_its_version_truthfully_or_is_rejected(here: FakeInstallation) -> None:
    key = root_key(here)
    old = wrap(here, key)
    rotated = here.core.keys.rotate(CALLER, key.id)
    redirected = old[:2] + uuid_bytes(rotated.current.id) + old[18:]

    assert_rejected(refusal(here, key, redirected))


def test_a_version_with_the_same_material_opens_nothing_of_the_former_one(
    here: FakeInstallation,
) -> None:
    key = root_key(here, material=DATA_KEY)
    old = wrap(here, key)
    rotated = here.core.keys.rotate(CALLER, key.id, material=DATA_KEY)
    redirected = old[:2] + uuid_bytes(rotated.current.id) + old[18:]

    assert_rejected(refusal(here, key, redirected))


def test_a_caller_never_opens_what_the_api_server_wrote(here: FakeInstallation) -> None:
    """One key may serve both faces; the label in the authenticated data keeps them apart."""
    key = root_key(here)
    cipher = EnvelopeCipher(here.token, UseBudget(here.store))
    kms, rest = (
        cipher.encrypt(face, key, key.current, DATA_KEY, ()) for face in (Face.KMS, Face.REST)
    )

    assert_rejected(refusal(here, key, kms))
    assert unwrap(here, key, rest).plaintext == DATA_KEY


@pytest.mark.parametrize(
    "aad",
    [
        pytest.param([], id="absent"),
        pytest.param(["bc", "a"], id="reordered"),
        pytest.param(["ab", "c"], id="moved-border"),
        pytest.param(["abc"], id="merged"),
        pytest.param(["a", "", "bc"], id="empty-between"),
        pytest.param(["a", "bc", ""], id="empty-after"),
        pytest.param(["a"], id="shorter"),
        pytest.param(["a", "bc", "bc"], id="longer"),
        pytest.param(["A", "bc"], id="other-case"),
    ],
)
def test_any_other_aad_is_rejected(here: FakeInstallation, aad: list[str]) -> None:
    key = root_key(here)

    assert_rejected(refusal(here, key, wrap(here, key, ["a", "bc"]), aad))


def test_no_aad_and_one_empty_text_are_different(here: FakeInstallation) -> None:
    key = root_key(here)

    assert_rejected(refusal(here, key, wrap(here, key, []), [""]))
    assert_rejected(refusal(here, key, wrap(here, key, [""]), []))


# --- other refusals ------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, PLAINTEXT_BYTES_MAX + 1])
def test_a_plaintext_out_of_bounds_is_not_wrapped(here: FakeInstallation, size: int) -> None:
    key = root_key(here)

    with pytest.raises(InvalidRequestError) as refused:
        here.core.wrapping.wrap(CALLER, here.instance.id, key.id, bytes(size))

    assert refused.value.field == "plaintext"


@pytest.mark.parametrize("operation", ["wrap", "unwrap", "rewrap"])
def test_aad_out_of_bounds_is_refused(here: FakeInstallation, operation: str) -> None:
    key = root_key(here)
    arguments = (CALLER, here.instance.id, key.id, wrap(here, key))

    with pytest.raises(InvalidRequestError) as refused:
        getattr(here.core.wrapping, operation)(*arguments, aad=["x" * 256])

    assert refused.value.field == "aad"


@pytest.mark.parametrize("operation", ["wrap", "unwrap", "rewrap"])
def test_a_key_of_another_instance_does_not_exist(here: FakeInstallation, operation: str) -> None:
    key = root_key(here)
    ciphertext, elsewhere = wrap(here, key), another_instance(here)

    with pytest.raises(KeyNotFoundError):
        getattr(here.core.wrapping, operation)(CALLER, elsewhere, key.id, ciphertext)
    with pytest.raises(KeyNotFoundError):
        getattr(here.core.wrapping, operation)(
            CALLER, here.instance.id, KeyId(new_uuid()), ciphertext
        )


@pytest.mark.parametrize("operation", ["wrap", "unwrap", "rewrap"])
def test_a_lost_token_is_told_as_such(here: FakeInstallation, operation: str) -> None:
    """Never as a bad ciphertext, or a caller would throw good ones away."""
    key = root_key(here)
    ciphertext = wrap(here, key)
    here.token.lost = True

    with pytest.raises(TokenUnavailableError):
        getattr(here.core.wrapping, operation)(CALLER, here.instance.id, key.id, ciphertext)


@pytest.mark.parametrize("operation", ["wrap", "unwrap", "rewrap"])
def test_a_key_changed_in_the_store_is_not_used(here: FakeInstallation, operation: str) -> None:
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("key"))
    ciphertext = wrap(here, key)
    tamper_key(here, key.id, name="changed")
    here.clock.advance(seconds=0.6)

    with pytest.raises(IntegrityError):
        getattr(here.core.wrapping, operation)(CALLER, here.instance.id, key.id, ciphertext)


def test_a_live_key_without_material_is_a_broken_record(here: FakeInstallation) -> None:
    key = root_key(here)
    ciphertext = wrap(here, key)
    save_key(here, replace(key, versions=(replace(key.versions[0], wrapped=None),)))

    with pytest.raises(IntegrityError):
        wrap(here, key)
    with pytest.raises(IntegrityError):
        unwrap(here, key, ciphertext)
