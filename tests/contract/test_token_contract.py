"""What every token must do, on the fake and on SoftHSM2."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycore.domain.ids import VersionId, new_uuid
from keycore.errors import CiphertextRejectedError, KeyplaneError
from keycore.ports import Token, WrappedKey
from tests.fakes.memory_token import InsecureMemoryToken


@pytest.fixture(params=["memory", "softhsm"])
def token(request: pytest.FixtureRequest) -> Token:
    if request.param == "memory":
        return InsecureMemoryToken()
    found: Token = request.getfixturevalue("softhsm_token")
    return found


def new_key(token: Token) -> WrappedKey:
    return WrappedKey(VersionId(new_uuid()), token.generate_key())


def test_a_generated_key_leaves_the_token_wrapped_in_40_bytes(token: Token) -> None:
    assert len(token.generate_key()) == 40


def test_two_generated_keys_differ(token: Token) -> None:
    assert token.generate_key() != token.generate_key()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(plaintext=st.binary(min_size=1, max_size=4096), aad=st.binary(max_size=300))
def test_decrypt_returns_what_encrypt_took(token: Token, plaintext: bytes, aad: bytes) -> None:
    key = new_key(token)

    body = token.encrypt(key, plaintext, aad)

    assert len(body) == 12 + len(plaintext) + 16
    assert token.decrypt(key, body, aad) == plaintext
    token.forget([key.version_id])


def test_every_encryption_has_a_nonce_of_its_own(token: Token) -> None:
    key = new_key(token)

    nonces = {token.encrypt(key, b"same", b"")[:12] for _ in range(50)}

    assert len(nonces) == 50


@pytest.mark.parametrize("position", [0, 11, 12, 20, 43, -1])
def test_a_flipped_bit_anywhere_is_rejected(token: Token, position: int) -> None:
    key = new_key(token)
    body = bytearray(token.encrypt(key, b"x" * 32, b"aad"))
    body[position] ^= 1

    with pytest.raises(CiphertextRejectedError):
        token.decrypt(key, bytes(body), b"aad")


@pytest.mark.parametrize("length", [0, 1, 12, 27, 28, 43])
def test_a_truncated_body_is_rejected(token: Token, length: int) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x" * 32, b"aad")

    with pytest.raises(CiphertextRejectedError):
        token.decrypt(key, body[:length], b"aad")


def test_other_aad_is_rejected(token: Token) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x", b"aad")

    with pytest.raises(CiphertextRejectedError):
        token.decrypt(key, body, b"other")


def test_another_key_is_rejected(token: Token) -> None:
    body = token.encrypt(new_key(token), b"x", b"")

    with pytest.raises(CiphertextRejectedError):
        token.decrypt(new_key(token), body, b"")


def test_the_token_works_on_after_a_rejection(token: Token) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x", b"")

    with pytest.raises(CiphertextRejectedError):
        token.decrypt(key, body, b"other")

    assert token.decrypt(key, body, b"") == b"x"


@pytest.mark.parametrize(
    "material",
    [bytes(32), bytes(31) + b"\x01", bytes(range(32))],
    ids=["all zero", "leading zeros", "counting"],
)
def test_an_imported_key_is_the_key_that_was_given(token: Token, material: bytes) -> None:
    key = WrappedKey(VersionId(new_uuid()), token.import_key(material))

    body = token.encrypt(key, b"text", b"aad")

    assert AESGCM(material).decrypt(body[:12], body[12:], b"aad") == b"text"


def test_a_forgotten_key_works_again_from_its_wrapped_form(token: Token) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x", b"")

    token.forget([key.version_id, VersionId(new_uuid())])

    assert token.decrypt(key, body, b"") == b"x"


@pytest.mark.parametrize("position", [0, 8, 39])
def test_a_changed_wrapped_key_is_never_used(token: Token, position: int) -> None:
    blob = bytearray(token.generate_key())
    blob[position] ^= 1

    with pytest.raises(KeyplaneError):
        token.encrypt(WrappedKey(VersionId(new_uuid()), bytes(blob)), b"x", b"")


def test_unseal_returns_what_seal_took(token: Token) -> None:
    assert token.unseal(token.seal(b"payload", b"aad"), b"aad") == b"payload"


def test_a_sealed_payload_opens_under_its_own_aad_only(token: Token) -> None:
    with pytest.raises(CiphertextRejectedError):
        token.unseal(token.seal(b"payload", b"aad"), b"other")


def test_a_root_key_does_not_open_what_was_sealed(token: Token) -> None:
    with pytest.raises(CiphertextRejectedError):
        token.decrypt(new_key(token), token.seal(b"payload", b""), b"")


def test_a_signature_verifies_for_its_own_data_only(token: Token) -> None:
    mac = token.sign(b"record")

    assert len(mac) == 32
    assert token.is_signed(b"record", mac)
    assert not token.is_signed(b"other", mac)
    assert not token.is_signed(b"record", bytes(32))
    assert not token.is_signed(b"record", mac[:31])


def test_random_bytes_have_the_wanted_length_and_differ(token: Token) -> None:
    assert len(token.random_bytes(32)) == 32
    assert token.random_bytes(32) != token.random_bytes(32)


def test_a_present_token_passes_its_check(token: Token) -> None:
    token.check()


def test_a_token_tells_its_label_and_serial(token: Token) -> None:
    described = token.describe()

    assert described.label
    assert described.serial
