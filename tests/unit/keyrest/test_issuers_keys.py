"""Which keys of a JWK Set may prove anything."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey, RSAKey

from keycore.errors import IssuerUnavailableError, UnauthenticatedError
from keyrest.jwks import VerificationKeys, read_key_set
from keyrest.reasons import Refusal
from tests.fakes.signing_issuer import SigningKey, base64url

EC = SigningKey("ec", "ES256")
RSA = SigningKey("rsa", "RS256")
EDWARDS = SigningKey("ed", "EdDSA")
RSA_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def keys_of(*jwks: Any) -> VerificationKeys:
    return read_key_set(json.dumps({"keys": jwks}).encode())


def algorithms_of(jwk: dict[str, Any]) -> set[str]:
    """Return the algorithms that the only key of a set may be used with."""
    found = keys_of(jwk)._keys
    return set(found[0].algorithms) if found else set()


def reason(keys: VerificationKeys, key_id: str | None, algorithm: str) -> str:
    with pytest.raises(UnauthenticatedError) as refused:
        keys.find(key_id, algorithm)
    return refused.value.reason


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA, RSA_ALGORITHMS),
        (EC, {"ES256"}),
        (SigningKey("a", "ES384"), {"ES384"}),
        (SigningKey("a", "ES512"), {"ES512"}),
        (EDWARDS, {"EdDSA", "Ed25519"}),
    ],
    ids=["RSA", "P-256", "P-384", "P-521", "Ed25519"],
)
def test_a_key_is_bound_to_the_algorithms_of_its_type_and_curve(
    key: SigningKey, algorithms: set[str]
) -> None:
    assert algorithms_of(key.jwk()) == algorithms


@pytest.mark.parametrize(
    ("key", "named", "algorithms"),
    [
        (RSA, "PS256", {"PS256"}),
        (EDWARDS, "EdDSA", {"EdDSA", "Ed25519"}),
        (EDWARDS, "Ed25519", {"EdDSA", "Ed25519"}),
        (RSA, "ES256", set()),
        (RSA, "RSA-OAEP", set()),
        (EC, "HS256", set()),
        (EC, "none", set()),
    ],
)
def test_its_alg_narrows_them(key: SigningKey, named: str, algorithms: set[str]) -> None:
    assert algorithms_of(key.jwk(alg=named)) == algorithms


@pytest.mark.parametrize(
    "members",
    [{"use": None}, {"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}],
    ids=str,
)
def test_a_key_that_may_check_signatures_is_used(members: dict[str, Any]) -> None:
    assert len(keys_of(EC.jwk(**members))) == 1


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"use": "SIG"},
        {"use": 1},
        {"key_ops": []},
        {"key_ops": ["sign"]},
        {"key_ops": ["encrypt", "wrapKey"]},
        {"key_ops": "verify"},
        {"kid": 5},
        {"kid": ["ec"]},
        {"alg": ["ES256"]},
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": "AKP"},
        {"kty": ["EC"]},
        {"kty": None},
        {"crv": "P-192"},
        {"crv": "secp256k1"},
        {"crv": ["P-256"]},
        {"crv": None},
        {"x": None},
        {"x": 5},
        {"x": ""},
        {"x": "!!"},
        {"y": base64url(bytes(32))},
        {"d": base64url(bytes(32))},
    ],
    ids=str,
)
def test_a_key_of_another_purpose_or_without_sense_is_left_out(members: dict[str, Any]) -> None:
    assert len(keys_of(EC.jwk(**members), RSA.jwk())) == 1


def test_a_symmetric_key_is_left_out() -> None:
    """Whatever its names are: an HMAC key in a public document is no secret."""
    secret = OctKey.generate_key(256).as_dict(private=True)

    keys = keys_of({**secret, "kid": "oct", "alg": "RS256", "use": "sig"})

    assert len(keys) == 0
    assert keys.find("oct", "RS256") is None


def test_a_key_given_with_its_private_half_proves_nothing() -> None:
    private = EDWARDS.key.as_dict(private=True)

    assert len(keys_of({**private, "kid": "ed"})) == 0


@pytest.mark.parametrize(("bits", "count"), [(1024, 0), (2047, 0), (2048, 1), (8193, 0)])
def test_an_rsa_modulus_has_2048_to_8192_bits(bits: int, count: int) -> None:
    # No real modulus is needed to have its length judged.
    number = (1 << (bits - 1)) + 1
    modulus = base64url(number.to_bytes((bits + 7) // 8))

    assert len(keys_of(RSA.jwk(n=modulus))) == count


def test_a_short_rsa_key_is_left_out_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        short = RSAKey.generate_key(1024).as_dict(private=False)

    assert len(keys_of({**short, "kid": "short"})) == 0


@pytest.mark.parametrize("exponent", [b"", b"\x00", b"\x01", b"\x02"], ids=repr)
def test_an_rsa_exponent_that_proves_nothing_is_left_out(exponent: bytes) -> None:
    assert len(keys_of(RSA.jwk(e=base64url(exponent)))) == 0


def test_keys_that_share_a_kid_are_refused_all() -> None:
    twins = keys_of(EC.jwk(kid="twin"), SigningKey("twin", "ES256", which=1).jwk(), RSA.jwk())

    assert len(twins) == 1
    assert reason(twins, "twin", "ES256") == Refusal.AMBIGUOUS_KEY


def test_a_kid_is_ambiguous_even_if_only_one_of_its_keys_makes_sense() -> None:
    twins = keys_of(EC.jwk(kid="twin"), EC.jwk(kid="twin", x="!!"))

    assert reason(twins, "twin", "ES256") == Refusal.AMBIGUOUS_KEY


def test_a_key_for_encryption_may_have_the_same_kid() -> None:
    keys = keys_of(EC.jwk(kid="same"), RSA.jwk(kid="same", use="enc"))

    assert keys.find("same", "ES256") is not None


def test_without_kid_two_fitting_keys_are_ambiguous() -> None:
    keys = keys_of(EC.jwk(), SigningKey("other", "ES256", which=1).jwk())

    assert reason(keys, None, "ES256") == Refusal.AMBIGUOUS_KEY


def test_without_kid_a_key_that_is_ambiguous_itself_is_not_chosen() -> None:
    keys = keys_of(EC.jwk(kid="twin"), EC.jwk(kid="twin"))

    assert keys.find(None, "ES256") is None


def test_a_key_is_not_used_with_an_algorithm_of_another_type() -> None:
    assert reason(keys_of(RSA.jwk(), EC.jwk()), "ec", "RS256") == Refusal.KEY_MISMATCH


def test_unknown_members_and_unknown_keys_are_passed_over() -> None:
    strange = {"kty": "EC2", "kid": "new", "pub": "x"}

    keys = keys_of(EC.jwk(x5u="no url", x5c=5, ext=True, nonsense={}), strange, None, 5, "key", [])

    assert keys.find("ec", "ES256") is not None


def test_a_set_without_keys_is_a_set() -> None:
    assert len(keys_of()) == 0


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html></html>",
        b"[]",
        b"{}",
        b'{"keys":null}',
        b'{"keys":{}}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":' + b"[" * 100_000,
        base64.b64encode(bytes(100)),
    ],
    ids=lambda document: repr(document[:24]),
)
def test_what_is_no_key_set_is_a_fault_of_the_issuer(document: bytes) -> None:
    with pytest.raises(IssuerUnavailableError):
        read_key_set(document)


def test_sets_are_equal_when_their_keys_are() -> None:
    one, same = keys_of(EC.jwk(), RSA.jwk()), keys_of(RSA.jwk(), EC.jwk())

    assert one == same
    assert one != keys_of(EC.jwk())
    assert one != keys_of(EC.jwk(), RSA.jwk(alg="RS256"))
    assert one != keys_of(EC.jwk(), SigningKey("rsa", "RS256", which=1).jwk())
    assert one != "keys"
