"""What every token must do, of whatever kind: on the fake, SoftHSM2 and openCryptoki.

SoftHSM2 2.6.1 has CBC-PAD for data only and wraps no key by it, so it is of one kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycore.domain.envelope import (
    AES_256_CBC_HMAC_SHA_256,
    AES_256_GCM,
    HEADER_BYTES,
    SUITES,
)
from keycore.domain.ids import VersionId, new_uuid
from keycore.errors import CiphertextRejectedError, KeyplaneError
from keycore.ports import Token, WrappedKey
from tests.fakes.memory_token import InsecureMemoryToken

_VECTORS = Path(__file__).parents[1] / "vectors"
VECTORS = {
    suite: json.loads((_VECTORS / name).read_text(encoding="utf-8"))
    for suite, name in (
        (AES_256_GCM.code, "envelope.json"),
        (AES_256_CBC_HMAC_SHA_256.code, "envelope-2.json"),
    )
}

TOKENS: dict[str, Callable[[pytest.FixtureRequest], Token]] = {
    "memory-gcm": lambda _: InsecureMemoryToken(AES_256_GCM),
    "memory-cbc-hmac": lambda _: InsecureMemoryToken(AES_256_CBC_HMAC_SHA_256),
    "softhsm-gcm": lambda request: request.getfixturevalue("softhsm_token"),
    "opencryptoki-cbc-hmac": lambda request: request.getfixturevalue("opencryptoki_token"),
}


@pytest.fixture(params=TOKENS)
def token(request: pytest.FixtureRequest) -> Token:
    return TOKENS[request.param](request)


def new_key(token: Token) -> WrappedKey:
    return WrappedKey(VersionId(new_uuid()), token.generate_key())


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def refusal(action: Callable[[], bytes]) -> CiphertextRejectedError:
    with pytest.raises(CiphertextRejectedError) as refused:
        action()
    return refused.value


def test_a_token_makes_ciphertexts_of_one_of_the_suites(token: Token) -> None:
    assert token.suite in SUITES.values()


def test_generated_and_imported_keys_cannot_be_told_apart_by_their_length(token: Token) -> None:
    assert len(token.generate_key()) == len(token.import_key(bytes(32)))


def test_two_generated_keys_differ(token: Token) -> None:
    assert token.generate_key() != token.generate_key()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(plaintext=st.binary(min_size=1, max_size=4096), aad=st.binary(max_size=300))
def test_decrypt_returns_what_encrypt_took(token: Token, plaintext: bytes, aad: bytes) -> None:
    key = new_key(token)

    body = token.encrypt(key, plaintext, aad)

    assert HEADER_BYTES + len(body) == token.suite.ciphertext_bytes(len(plaintext))
    assert token.decrypt(key, body, aad) == plaintext
    token.forget([key.version_id])


def test_every_encryption_has_a_nonce_of_its_own(token: Token) -> None:
    key, size = new_key(token), token.suite.iv_bytes

    nonces = {token.encrypt(key, b"same", b"")[:size] for _ in range(50)}

    assert len(nonces) == 50


@pytest.mark.parametrize("size", [1, 15, 16, 17, 32])
def test_a_flipped_bit_anywhere_is_rejected(token: Token, size: int) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x" * size, b"aad")

    for position in range(len(body)):
        refusal(lambda at=position: token.decrypt(key, flipped(body, at), b"aad"))  # type: ignore[misc]

    assert token.decrypt(key, body, b"aad") == b"x" * size


def test_a_truncated_body_is_rejected(token: Token) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x" * 32, b"aad")

    for length in range(len(body)):
        refusal(lambda at=length: token.decrypt(key, body[:at], b"aad"))  # type: ignore[misc]


def test_every_refusal_of_a_ciphertext_looks_the_same(token: Token) -> None:
    """A difference, such as between a wrong tag and a wrong padding, would be an oracle."""
    key = new_key(token)
    body = token.encrypt(key, b"x" * 40, b"aad")
    block, tag = 16, token.suite.tag_bytes
    encrypted = body[token.suite.iv_bytes : -tag]
    changed = (
        *(flipped(body, position) for position in range(len(body))),
        body[block:],
        body[:-1],
        body + bytes(block),
        body[: -tag - block] + body[-tag:],
        body[: -len(encrypted) - tag] + bytes(len(encrypted)) + body[-tag:],
        body[:-tag] + bytes(tag),
        bytes(len(body)),
        b"",
    )
    refusals = [refusal(lambda it=it: token.decrypt(key, it, b"aad")) for it in changed]  # type: ignore[misc]
    refusals.append(refusal(lambda: token.decrypt(key, body, b"other")))
    refusals.append(refusal(lambda: token.decrypt(new_key(token), body, b"aad")))

    seen = {(type(one), str(one), one.code, one.hint, one.__cause__) for one in refusals}

    assert len(seen) == 1


@given(
    one=st.tuples(st.binary(max_size=40), st.binary(min_size=1, max_size=40)),
    moved=st.integers(min_value=1, max_value=40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_no_byte_moves_between_aad_and_body(
    token: Token, one: tuple[bytes, bytes], moved: int
) -> None:
    aad, plaintext = one
    key = new_key(token)
    body = token.encrypt(key, plaintext, aad)

    refusal(lambda: token.decrypt(key, body[moved:], aad + body[:moved]))

    token.forget([key.version_id])


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
    other = InsecureMemoryToken(token.suite)
    key = WrappedKey(VersionId(new_uuid()), token.import_key(material))
    same_key = WrappedKey(VersionId(new_uuid()), other.import_key(material))

    body = token.encrypt(key, b"text", b"aad")

    assert other.decrypt(same_key, body, b"aad") == b"text"


def test_the_golden_ciphertexts_are_opened_by_the_imported_key(token: Token) -> None:
    vectors: dict[str, Any] = VECTORS[token.suite.code]
    material = bytes.fromhex(vectors["root_key"])
    key = WrappedKey(VersionId(new_uuid()), token.import_key(material))

    for case in vectors["cases"]:
        body = bytes.fromhex(case["envelope"])[HEADER_BYTES:]
        aad = bytes.fromhex(case["authenticated_data"])
        assert token.decrypt(key, body, aad).hex() == case["plaintext"]


def test_a_forgotten_key_works_again_from_its_wrapped_form(token: Token) -> None:
    key = new_key(token)
    body = token.encrypt(key, b"x", b"")

    token.forget([key.version_id, VersionId(new_uuid())])

    assert token.decrypt(key, body, b"") == b"x"


def test_a_changed_wrapped_key_is_never_used(token: Token) -> None:
    blob = token.generate_key()

    for position in range(len(blob)):
        changed = WrappedKey(VersionId(new_uuid()), flipped(blob, position))
        with pytest.raises(KeyplaneError):
            token.encrypt(changed, b"x", b"")


def test_parts_of_two_wrapped_keys_make_no_key(token: Token) -> None:
    one, other = token.generate_key(), token.generate_key()
    half = len(one) // 2

    for blob in (one[:half] + other[half:], one[half:] + one[:half], one[:half] * 2, b""):
        with pytest.raises(KeyplaneError):
            token.encrypt(WrappedKey(VersionId(new_uuid()), blob), b"x", b"")


def test_unseal_returns_what_seal_took(token: Token) -> None:
    assert token.unseal(token.seal(b"payload", b"aad"), b"aad") == b"payload"


def test_a_sealed_payload_opens_under_its_own_aad_only(token: Token) -> None:
    with pytest.raises(CiphertextRejectedError):
        token.unseal(token.seal(b"payload", b"aad"), b"other")


def test_a_root_key_does_not_open_what_was_sealed(token: Token) -> None:
    with pytest.raises(CiphertextRejectedError):
        token.decrypt(new_key(token), token.seal(b"payload", b""), b"")


def test_what_a_root_key_encrypted_is_not_unsealed(token: Token) -> None:
    body = token.encrypt(new_key(token), b"payload", b"")

    refusal(lambda: token.unseal(body, b""))


def test_a_flipped_bit_anywhere_in_a_sealed_payload_is_rejected(token: Token) -> None:
    sealed = token.seal(b"payload", b"aad")

    for position in range(len(sealed)):
        refusal(lambda at=position: token.unseal(flipped(sealed, at), b"aad"))  # type: ignore[misc]


def test_a_signature_verifies_for_its_own_data_only(token: Token) -> None:
    mac = token.sign(b"record")

    assert len(mac) == 32
    assert token.is_signed(b"record", mac)
    assert not token.is_signed(b"other", mac)
    assert not token.is_signed(b"record", bytes(32))
    assert not token.is_signed(b"record", mac[:31])
    assert not token.is_signed(b"record", b"")


def test_random_bytes_have_the_wanted_length_and_differ(token: Token) -> None:
    assert len(token.random_bytes(32)) == 32
    assert token.random_bytes(32) != token.random_bytes(32)


def test_a_present_token_passes_its_check(token: Token) -> None:
    token.check()


def test_a_token_tells_its_label_and_serial(token: Token) -> None:
    described = token.describe()

    assert described.label
    assert described.serial
