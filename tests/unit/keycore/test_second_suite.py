"""The use cases on a token without GCM: the same rules, and lengths of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycore.domain.envelope import AES_256_CBC_HMAC_SHA_256, AES_256_GCM, parse
from keycore.domain.keys import Key, KeyKind
from keycore.errors import CiphertextRejectedError, InvalidRequestError, KeyplaneError
from keycore.service.creation import NewKey
from keycore.service.kms import CIPHERTEXT_BYTES_MAX
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation


@pytest.fixture(scope="module")
def here() -> FakeInstallation:
    """An installation whose provider has a key."""
    installation = fake_installation(AES_256_CBC_HMAC_SHA_256)
    core = installation.core
    core.providers.bind(CALLER, core.settings.provider.name, root_key(installation).id)
    core.kms.refresh()
    return installation


def root_key(here: FakeInstallation) -> Key:
    return here.core.keys.create(CALLER, here.instance.id, NewKey("key"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.binary(min_size=1, max_size=4096), aad=st.lists(st.text(max_size=9), max_size=3))
def test_what_was_wrapped_is_unwrapped(here: FakeInstallation, data: bytes, aad: list[str]) -> None:
    key, wrapping = root_key(here), here.core.wrapping

    wrapped = wrapping.wrap(CALLER, here.instance.id, key.id, data, aad)

    assert len(wrapped.ciphertext) == AES_256_CBC_HMAC_SHA_256.ciphertext_bytes(len(data))
    opened = wrapping.unwrap(CALLER, here.instance.id, key.id, wrapped.ciphertext, aad)
    assert opened.plaintext == data


def test_a_flipped_bit_anywhere_in_a_ciphertext_is_refused(here: FakeInstallation) -> None:
    key, wrapping = root_key(here), here.core.wrapping
    ciphertext = wrapping.wrap(CALLER, here.instance.id, key.id, bytes(32)).ciphertext

    for position in range(len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[position] ^= 1
        with pytest.raises(KeyplaneError) as refused:
            wrapping.unwrap(CALLER, here.instance.id, key.id, bytes(changed))
        expected = "ciphertext_malformed" if position < 2 else "ciphertext_rejected"
        assert refused.value.code == expected, position


def test_every_wrong_ciphertext_gets_the_same_answer(here: FakeInstallation) -> None:
    """A caller who could tell a wrong padding from a wrong tag could decrypt by asking."""
    key, wrapping = root_key(here), here.core.wrapping
    ciphertext = wrapping.wrap(CALLER, here.instance.id, key.id, bytes(32)).ciphertext
    answers = set()

    for last in range(256):
        # The last byte of a block decides about the padding of the next.
        changed = bytearray(ciphertext)
        changed[-49] = last
        if bytes(changed) != ciphertext:
            with pytest.raises(CiphertextRejectedError) as refused:
                wrapping.unwrap(CALLER, here.instance.id, key.id, bytes(changed))
            answers.add((refused.value.message, refused.value.hint))

    assert len(answers) == 1


def test_the_ciphertext_of_a_token_of_another_kind_is_refused(here: FakeInstallation) -> None:
    other = fake_installation(AES_256_GCM)
    theirs = root_key(other)
    foreign = other.core.wrapping.wrap(CALLER, other.instance.id, theirs.id, bytes(32)).ciphertext
    ours = root_key(here)

    with pytest.raises(CiphertextRejectedError):
        here.core.wrapping.unwrap(CALLER, here.instance.id, ours.id, foreign)


def test_a_relabelled_ciphertext_is_refused(here: FakeInstallation) -> None:
    """The suite byte is authenticated, and a body of one suite is never opened as another's."""
    key, wrapping = root_key(here), here.core.wrapping
    ciphertext = bytearray(wrapping.wrap(CALLER, here.instance.id, key.id, bytes(32)).ciphertext)
    ciphertext[1] = AES_256_GCM.code

    assert parse(bytes(ciphertext)).suite is AES_256_GCM
    with pytest.raises(CiphertextRejectedError):
        wrapping.unwrap(CALLER, here.instance.id, key.id, bytes(ciphertext))


def test_a_standard_key_gives_its_payload_back(here: FakeInstallation) -> None:
    keys = here.core.keys
    key = keys.create(
        CALLER,
        here.instance.id,
        NewKey("standard", kind=KeyKind.STANDARD, material=b"thirty-two bytes of key material"),
    )

    assert keys.open(CALLER, key.id).payload == b"thirty-two bytes of key material"


def test_a_rotated_keys_ciphertext_is_carried_over(here: FakeInstallation) -> None:
    key, wrapping = root_key(here), here.core.wrapping
    old = wrapping.wrap(CALLER, here.instance.id, key.id, b"data key").ciphertext
    here.core.keys.rotate(CALLER, key.id)

    new = wrapping.rewrap(CALLER, here.instance.id, key.id, old).ciphertext

    assert parse(new).version_id != parse(old).version_id
    opened = wrapping.unwrap(CALLER, here.instance.id, key.id, new)
    assert opened.plaintext == b"data key"


def test_the_longest_plaintext_of_kube_apiserver_fits_what_it_takes(
    here: FakeInstallation,
) -> None:
    kms = here.core.kms

    ciphertext, key_id = kms.encrypt(CALLER, bytes(943))

    assert len(ciphertext) == 1010 <= CIPHERTEXT_BYTES_MAX
    assert kms.decrypt(CALLER, ciphertext, key_id) == bytes(943)


def test_a_plaintext_whose_ciphertext_kube_apiserver_would_refuse_is_refused(
    here: FakeInstallation,
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        here.core.kms.encrypt(CALLER, bytes(944))

    assert refused.value.field == "plaintext"
