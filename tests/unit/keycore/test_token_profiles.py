"""Which profile a token has, and in which order the second profile does things."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pkcs11 import Attribute, KeyType, Mechanism

from keycore.adapters.pkcs11_cbc import BLOB_BYTES, SEALING_MAC, CbcHmacProfile, KeyPair
from keycore.adapters.pkcs11_gcm import GcmProfile
from keycore.adapters.pkcs11_profile import MASTER, RECORD_MAC, SEALING, Login, hands_out_readable
from keycore.adapters.pkcs11_profiles import profile_for, profile_in, profile_of
from keycore.errors import CiphertextRejectedError, IntegrityError, TokenSetupError

GCM, CBC_HMAC = GcmProfile.mechanisms, CbcHmacProfile.mechanisms


class TokenHolding:
    """A session on a token that holds objects of these labels."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self.token = self
        self.label = "keyplane"

    def get_objects(self, template: dict[Attribute, Any]) -> list[str]:
        return [label for label in self._labels if label == template[Attribute.LABEL]]


class OtherAuthentication:
    """A key under which every tag is a wrong one; it can do nothing but sign."""

    def sign(self, *_: object, **__: object) -> bytes:
        return b"\xff" * 32


class Stolen:
    """A key that the token has unwrapped."""

    def __init__(self, *, sensitive: bool, extractable: bool) -> None:
        self._read = {Attribute.SENSITIVE: sensitive, Attribute.EXTRACTABLE: extractable}
        self.destroyed = False

    def get_attributes(self, names: list[Attribute]) -> dict[Attribute, bool]:
        return {name: self._read[name] for name in names}

    def destroy(self) -> None:
        self.destroyed = True


def holding(*labels: str) -> Any:
    return TokenHolding(*labels)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        pytest.param({*GCM, *CBC_HMAC}, "auto", "gcm", id="the-better-one-of-two"),
        pytest.param({*CBC_HMAC}, "auto", "cbc-hmac", id="the-only-one"),
        pytest.param({*GCM, *CBC_HMAC}, "cbc-hmac", "cbc-hmac", id="the-wanted-one"),
    ],
)
def test_init_takes_the_best_profile_that_is_offered_and_wanted(
    offered: set[Mechanism], wanted: str, chosen: str
) -> None:
    assert profile_for(offered, wanted).name == chosen


def test_a_token_without_the_wanted_mechanisms_is_told_which_ones_it_lacks() -> None:
    with pytest.raises(TokenSetupError, match=r"gcm needs AES_GCM, AES_KEY_WRAP_PAD$"):
        profile_for(CBC_HMAC, "gcm")


def test_a_token_that_fits_no_profile_is_told_what_each_of_them_needs() -> None:
    with pytest.raises(TokenSetupError, match=r"gcm needs .*; cbc-hmac needs .*SHA256_HMAC"):
        profile_for((), "auto")


@pytest.mark.parametrize("label", [MASTER, SEALING, RECORD_MAC])
def test_an_object_without_the_sealing_mac_key_tells_gcm(label: str) -> None:
    found = profile_in(holding(label))

    assert found is not None
    assert found.name == "gcm"


def test_the_sealing_mac_key_tells_cbc_hmac_and_is_the_first_that_init_makes() -> None:
    found = profile_in(holding(SEALING_MAC))

    assert found is not None
    assert (found.name, next(iter(found.plans))) == ("cbc-hmac", SEALING_MAC)


def test_an_interrupted_init_goes_on_with_the_profile_it_began_with() -> None:
    begun = profile_in(holding(SEALING_MAC))

    assert profile_for({*GCM, *CBC_HMAC}, "auto", begun) is begun


@pytest.mark.parametrize(
    ("label", "has", "wanted"), [(MASTER, "gcm", "cbc-hmac"), (SEALING_MAC, "cbc-hmac", "gcm")]
)
def test_a_contradiction_between_token_and_setting_names_both(
    label: str, has: str, wanted: str
) -> None:
    with pytest.raises(TokenSetupError, match=f"profile {has}, and token.profile says {wanted}"):
        profile_of(holding(label), wanted)
    with pytest.raises(TokenSetupError, match=f"profile {has}, and token.profile says {wanted}"):
        profile_for({*GCM, *CBC_HMAC}, wanted, profile_in(holding(label)))


def test_a_token_without_our_objects_has_no_profile() -> None:
    assert profile_in(holding("somebody-elses")) is None
    with pytest.raises(TokenSetupError, match="holds no keys of keyplane"):
        profile_of(holding("somebody-elses"), "auto")


def test_nothing_is_decrypted_before_the_tag_is_right() -> None:
    """Whatever would be done with a key that is not there raises something else."""
    pair = KeyPair(encryption=None, authentication=OtherAuthentication())

    with pytest.raises(CiphertextRejectedError):
        CbcHmacProfile().decrypt(cast("Login", None), pair, bytes(96), b"")


@pytest.mark.parametrize("size", [*range(64), 65, 72, 79, 81])
def test_a_body_of_an_impossible_length_is_refused_without_the_token(size: int) -> None:
    nothing = KeyPair(encryption=None, authentication=None)

    with pytest.raises(CiphertextRejectedError):
        CbcHmacProfile().decrypt(cast("Login", None), nothing, bytes(size), b"")


@pytest.mark.parametrize("size", [0, 40, BLOB_BYTES - 1, BLOB_BYTES, BLOB_BYTES + 1])
def test_nothing_is_unwrapped_before_its_mac_is_right(size: int) -> None:
    login = Login(cast("Any", None), {RECORD_MAC: OtherAuthentication()})

    with pytest.raises(IntegrityError):
        CbcHmacProfile().working_copy(login, bytes(size))


@pytest.mark.parametrize(
    ("sensitive", "extractable", "readable"),
    [(True, False, False), (False, False, True), (True, True, True)],
)
def test_a_key_counts_as_readable_by_what_it_is_and_not_by_what_was_asked_for(
    *, sensitive: bool, extractable: bool, readable: bool
) -> None:
    stolen = Stolen(sensitive=sensitive, extractable=extractable)

    assert hands_out_readable(lambda _: stolen) is readable
    assert stolen.destroyed


def test_two_keys_of_the_second_profile_are_of_two_types() -> None:
    plans = CbcHmacProfile.plans

    assert plans[SEALING].key_type is KeyType.AES
    assert plans[SEALING_MAC].key_type is KeyType.GENERIC_SECRET
    assert all(plan.may_be_copyable for plan in plans.values())
    assert not any(plan.may_be_copyable for plan in GcmProfile.plans.values())
