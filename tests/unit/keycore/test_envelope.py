"""The ciphertext format in both suites: exact bytes, strict parsing, and what its tag covers."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from keycore.domain.envelope import (
    AAD_CHARACTERS_MAX,
    AAD_ITEMS_MAX,
    AES_256_CBC_HMAC_SHA_256,
    AES_256_GCM,
    CIPHERTEXT_BYTES_MAX,
    CIPHERTEXT_BYTES_MIN,
    HEADER_BYTES,
    PLAINTEXT_BYTES_MAX,
    SUITES,
    USES_MAX,
    Face,
    Suite,
    authenticated_data,
    check_plaintext,
    encode_aad,
    header_of,
    parse,
    tagged_data,
)
from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.keys import Key, VersionState
from keycore.errors import (
    CiphertextMalformedError,
    CiphertextRejectedError,
    InvalidRequestError,
)
from keycore.ports import WrappedKey
from keycore.service.cipher import EnvelopeCipher
from keycore.service.use_budget import UseBudget
from tests.fakes.memory_store import MemoryStore
from tests.fakes.memory_token import InsecureMemoryToken
from tests.unit.keycore.examples import FIRST_VERSION_ID, KEY, SECOND_VERSION_ID

_DIRECTORY = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((_DIRECTORY / "envelope.json").read_text(encoding="utf-8"))
VECTORS_2 = json.loads((_DIRECTORY / "envelope-2.json").read_text(encoding="utf-8"))
CASES = [
    *(pytest.param(AES_256_GCM, case, id=f"gcm-{case['name']}") for case in VECTORS["cases"]),
    *(
        pytest.param(AES_256_CBC_HMAC_SHA_256, case, id=f"cbc-{case['name']}")
        for case in VECTORS_2["cases"]
    ),
]
BOTH = pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.mode)


class FixedRootKeys(InsecureMemoryToken):
    """Root keys that are not wrapped at all, and one nonce or IV for every encryption."""

    def __init__(self, suite: Suite, iv: bytes) -> None:
        super().__init__(suite)
        self._iv = iv
        self.decryptions = 0

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        if self.suite is AES_256_GCM:
            return self._iv + AESGCM(key.blob).encrypt(self._iv, plaintext, aad)
        padding = 16 - len(plaintext) % 16
        cipher = Cipher(AES(key_of_the_vectors("encrypt")), CBC(self._iv)).encryptor()
        encrypted = cipher.update(plaintext + bytes([padding]) * padding) + cipher.finalize()
        return self._iv + encrypted + tag_of_the_vectors(tagged_data(aad, self._iv, encrypted))

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        self.decryptions += 1
        if self.suite is AES_256_GCM:
            try:
                return AESGCM(key.blob).decrypt(body[:12], body[12:], aad)
            except InvalidTag:
                raise CiphertextRejectedError from None
        iv, encrypted, tag = body[:16], body[16:-32], body[-32:]
        if key.blob == bytes(32) or tag != tag_of_the_vectors(tagged_data(aad, iv, encrypted)):
            raise CiphertextRejectedError
        cipher = Cipher(AES(key_of_the_vectors("encrypt")), CBC(iv)).decryptor()
        padded = cipher.update(encrypted) + cipher.finalize()
        return padded[: -padded[-1]]


def key_of_the_vectors(purpose: str) -> bytes:
    """Return one of the two keys of the second suite."""
    keys = {item["info"]: bytes.fromhex(item["key"]) for item in VECTORS_2["keys"]}
    return keys[f"keyplane/import/{purpose}/1"]


def tag_of_the_vectors(tagged: bytes) -> bytes:
    return hmac.new(key_of_the_vectors("authenticate"), tagged, hashlib.sha256).digest()


def vector_key() -> Key:
    """Return the example key with the vectors' ids and material."""
    version = replace(
        KEY.versions[1],
        id=VersionId(VECTORS["version_id"]),
        wrapped=bytes.fromhex(VECTORS["root_key"]),
    )
    return replace(
        KEY,
        id=KeyId(VECTORS["key_id"]),
        instance_id=InstanceId(VECTORS["instance_id"]),
        versions=(KEY.versions[0], version),
    )


def vector_cipher(
    case: dict[str, Any], suite: Suite = AES_256_GCM
) -> tuple[EnvelopeCipher, FixedRootKeys]:
    """Return a cipher on fixed root keys whose versions have uses left."""
    store, root_keys = MemoryStore(), FixedRootKeys(suite, bytes.fromhex(iv_of(case)))
    store._tables.uses = {FIRST_VERSION_ID: 0, SECOND_VERSION_ID: 0}
    return EnvelopeCipher(root_keys, UseBudget(store)), root_keys


def iv_of(case: dict[str, Any]) -> str:
    found: str = case.get("nonce") or case["iv"]
    return found


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_a_ciphertext_has_exactly_the_bytes_of_the_vector(
    suite: Suite, case: dict[str, Any]
) -> None:
    cipher, _ = vector_cipher(case, suite)
    key = vector_key()

    made = cipher.encrypt(
        Face(case["face"]),
        key,
        key.current,
        bytes.fromhex(case["plaintext"]),
        encode_aad(case["aad"]),
    )

    assert made.hex() == case["envelope"]
    assert case["envelope"] == case["header"] + iv_of(case) + case["ciphertext"] + case["tag"]


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_the_vector_is_opened(suite: Suite, case: dict[str, Any]) -> None:
    cipher, root_keys = vector_cipher(case, suite)

    opened = cipher.decrypt(
        Face(case["face"]),
        vector_key(),
        parse(bytes.fromhex(case["envelope"])),
        encode_aad(case["aad"]),
    )

    assert opened.hex() == case["plaintext"]
    assert root_keys.decryptions == 1


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_header_and_authenticated_data_have_the_vectors_bytes(
    suite: Suite, case: dict[str, Any]
) -> None:
    key = vector_key()
    header = header_of(suite, key.current.id)

    assert header.hex() == case["header"]
    assert (
        authenticated_data(Face(case["face"]), key, header, encode_aad(case["aad"])).hex()
        == case["authenticated_data"]
    )


@pytest.mark.parametrize("case", VECTORS_2["cases"], ids=lambda case: case["name"])
def test_the_second_suites_tag_covers_the_vectors_bytes(case: dict[str, Any]) -> None:
    tagged = tagged_data(
        bytes.fromhex(case["authenticated_data"]),
        bytes.fromhex(case["iv"]),
        bytes.fromhex(case["ciphertext"]),
    )

    assert tagged.hex() == case["tagged_data"]
    assert tag_of_the_vectors(tagged).hex() == case["tag"]


def test_the_field_tables_describe_the_vectors() -> None:
    for vectors in (VECTORS, VECTORS_2):
        for case in vectors["cases"]:
            data = bytes.fromhex(case["envelope"])
            for row in vectors["fields"]:
                if row["value"] is not None:
                    found = data[row["offset"] : row["offset"] + row["size"]]
                    assert found.hex() == row["value"], row["field"]


@pytest.mark.parametrize(
    ("suite", "vectors", "iv"),
    [(AES_256_GCM, VECTORS, "nonce"), (AES_256_CBC_HMAC_SHA_256, VECTORS_2, "iv")],
    ids=["GCM", "CBC_PAD"],
)
def test_a_suite_has_the_sizes_of_its_field_table(
    suite: Suite, vectors: dict[str, Any], iv: str
) -> None:
    sizes = {row["field"]: row["size"] for row in vectors["fields"]}

    assert sizes["format"] + sizes["suite"] + sizes["version_id"] == HEADER_BYTES
    assert (sizes[iv], sizes["tag"]) == (suite.iv_bytes, suite.tag_bytes)
    for case in vectors["cases"]:
        length = suite.ciphertext_bytes(len(case["plaintext"]) // 2)
        assert length == len(case["envelope"]) // 2


def test_every_face_suite_and_bound_has_its_settled_value() -> None:
    assert [face.value for face in Face] == ["keyplane/rest/1", "keyplane/kmsv2/1"]
    assert [(suite.code, suite.mode) for suite in SUITES.values()] == [(1, "GCM"), (2, "CBC_PAD")]
    assert (PLAINTEXT_BYTES_MAX, CIPHERTEXT_BYTES_MIN, CIPHERTEXT_BYTES_MAX) == (4096, 47, 4178)
    assert (AAD_ITEMS_MAX, AAD_CHARACTERS_MAX) == (126, 255)
    assert USES_MAX == 2**32


@pytest.mark.parametrize(
    ("suite", "plaintext", "ciphertext"),
    [
        (AES_256_GCM, 1, 47),
        (AES_256_GCM, 4096, 4142),
        (AES_256_CBC_HMAC_SHA_256, 1, 82),
        (AES_256_CBC_HMAC_SHA_256, 15, 82),
        (AES_256_CBC_HMAC_SHA_256, 16, 98),
        (AES_256_CBC_HMAC_SHA_256, 4096, 4178),
    ],
)
def test_the_length_of_a_ciphertext_follows_from_that_of_its_plaintext(
    suite: Suite, plaintext: int, ciphertext: int
) -> None:
    assert suite.ciphertext_bytes(plaintext) == ciphertext
    assert suite.is_ciphertext_length(ciphertext)


@BOTH
@given(st.integers(min_value=200, max_value=4000))
def test_the_longest_plaintext_is_the_last_one_whose_ciphertext_fits(
    suite: Suite, bound: int
) -> None:
    longest = suite.plaintext_bytes_max(bound)

    assert suite.ciphertext_bytes(longest) <= bound < suite.ciphertext_bytes(longest + 1)


@BOTH
def test_only_lengths_that_a_plaintext_can_give_are_possible(suite: Suite) -> None:
    given_by_some = {suite.ciphertext_bytes(size) for size in range(1, PLAINTEXT_BYTES_MAX + 1)}

    possible = {size for size in range(5000) if suite.is_ciphertext_length(size)}

    assert possible == given_by_some


@BOTH
@given(version=st.uuids(), data=st.data())
def test_header_and_body_come_back_from_parsing(
    suite: Suite, version: uuid.UUID, data: st.DataObject
) -> None:
    length = suite.ciphertext_bytes(data.draw(st.integers(1, PLAINTEXT_BYTES_MAX)))
    header = header_of(suite, VersionId(str(version)))
    body = data.draw(st.randoms(use_true_random=False)).randbytes(length - HEADER_BYTES)

    parsed = parse(header + body)

    assert (parsed.suite, parsed.version_id, parsed.body) == (suite, str(version), body)
    assert parsed.header == header


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_parsed_or_refused_as_malformed(data: bytes) -> None:
    try:
        parsed = parse(data)
    except CiphertextMalformedError:
        return

    assert parsed.header + parsed.body == data


@pytest.mark.parametrize(
    ("suite", "length"),
    [
        pytest.param(AES_256_GCM, 46, id="GCM-no-plaintext"),
        pytest.param(AES_256_GCM, 4143, id="GCM-too-long"),
        pytest.param(AES_256_CBC_HMAC_SHA_256, 66, id="CBC-no-block"),
        pytest.param(AES_256_CBC_HMAC_SHA_256, 83, id="CBC-half-a-block"),
        pytest.param(AES_256_CBC_HMAC_SHA_256, 4194, id="CBC-too-long"),
    ],
)
def test_a_ciphertext_of_an_impossible_length_is_malformed(suite: Suite, length: int) -> None:
    with pytest.raises(CiphertextMalformedError):
        parse(header_of(suite, FIRST_VERSION_ID).ljust(length, b"x"))


@pytest.mark.parametrize("length", [0, 1, 2, 17, 18])
def test_a_piece_of_a_header_is_malformed(length: int) -> None:
    with pytest.raises(CiphertextMalformedError):
        parse(header_of(AES_256_GCM, FIRST_VERSION_ID)[:length])


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (0, 2), (1, 0), (1, 3), (1, 255)])
def test_another_format_or_suite_is_malformed(offset: int, value: int) -> None:
    data = bytearray.fromhex(VECTORS["cases"][0]["envelope"])
    data[offset] = value

    with pytest.raises(CiphertextMalformedError):
        parse(bytes(data))


@BOTH
def test_a_ciphertext_of_another_suite_is_rejected_without_an_attempt(suite: Suite) -> None:
    """It can only be one of another installation, so it is like one of another key."""
    theirs = VECTORS if suite is AES_256_CBC_HMAC_SHA_256 else VECTORS_2
    case = theirs["cases"][0]
    cipher, root_keys = vector_cipher(case, suite)

    with pytest.raises(CiphertextRejectedError):
        cipher.decrypt(Face.REST, vector_key(), parse(bytes.fromhex(case["envelope"])), ())

    assert root_keys.decryptions == 0


@given(st.binary(min_size=4, max_size=64), st.tuples(*[st.integers(0, 64)] * 4))
def test_bytes_moved_between_aad_iv_and_ciphertext_change_what_the_tag_covers(
    data: bytes, cuts: tuple[int, int, int, int]
) -> None:
    (a, b), (c, d) = sorted(cuts[:2]), sorted(cuts[2:])
    one, other = (data[:a], data[a:b], data[b:]), (data[:c], data[c:d], data[d:])

    assert (tagged_data(*one) == tagged_data(*other)) == (one == other)


@given(
    st.lists(st.text(max_size=8), max_size=4),
    st.lists(st.text(max_size=8), max_size=4),
    st.sampled_from(Face),
    st.sampled_from(Face),
)
def test_different_aad_or_faces_never_give_the_same_authenticated_data(
    one: list[str], other: list[str], face: Face, other_face: Face
) -> None:
    header = header_of(AES_256_GCM, FIRST_VERSION_ID)

    same = authenticated_data(face, KEY, header, encode_aad(one)) == authenticated_data(
        other_face, KEY, header, encode_aad(other)
    )

    assert same == ((one, face) == (other, other_face))


def test_key_instance_and_version_are_authenticated() -> None:
    seen = {
        authenticated_data(Face.REST, key, header_of(AES_256_GCM, version), ())
        for key in (
            KEY,
            replace(KEY, id=KeyId(KEY.instance_id)),
            replace(KEY, instance_id=InstanceId(KEY.id)),
        )
        for version in (FIRST_VERSION_ID, SECOND_VERSION_ID)
    }

    assert len(seen) == 6


def test_a_version_of_another_key_is_rejected_without_an_attempt() -> None:
    case = VECTORS["cases"][0]
    cipher, root_keys = vector_cipher(case)
    key = replace(vector_key(), versions=(KEY.versions[0],))

    with pytest.raises(CiphertextRejectedError):
        cipher.decrypt(Face.REST, key, parse(bytes.fromhex(case["envelope"])), ())

    assert root_keys.decryptions == 0


def test_no_other_version_is_tried_when_the_named_one_fails() -> None:
    """Trying several keys on one ciphertext would make a partition oracle."""
    case = VECTORS["cases"][0]
    cipher, root_keys = vector_cipher(case)
    key = vector_key()
    right, wrong = key.versions[1].wrapped, bytes(32)
    swapped = (
        replace(key.versions[0], wrapped=right, state=VersionState.ACTIVE),
        replace(key.versions[1], wrapped=wrong),
    )

    with pytest.raises(CiphertextRejectedError):
        cipher.decrypt(
            Face.REST,
            replace(key, versions=swapped),
            parse(bytes.fromhex(case["envelope"])),
            (),
        )

    assert root_keys.decryptions == 1


@pytest.mark.parametrize("length", [1, 32, PLAINTEXT_BYTES_MAX])
def test_a_plaintext_within_the_bounds_is_accepted(length: int) -> None:
    assert check_plaintext(bytes(length)) == bytes(length)


@pytest.mark.parametrize("length", [0, PLAINTEXT_BYTES_MAX + 1])
def test_a_plaintext_out_of_bounds_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_plaintext(bytes(length))

    assert refused.value.field == "plaintext"


def test_the_longest_aad_is_accepted_and_counted_in_characters() -> None:
    longest = ["😀" * AAD_CHARACTERS_MAX] * AAD_ITEMS_MAX

    assert encode_aad(longest) == ("😀".encode() * AAD_CHARACTERS_MAX,) * AAD_ITEMS_MAX


def test_aad_is_taken_as_it_is() -> None:
    """Neither case nor Unicode normal form is touched, and empty texts count."""
    aad = ["É", "E\N{COMBINING ACUTE ACCENT}", "é", ""]

    assert encode_aad(aad) == tuple(item.encode() for item in aad)
    assert encode_aad([]) == ()


@pytest.mark.parametrize(
    "aad",
    [
        pytest.param([""] * (AAD_ITEMS_MAX + 1), id="too-many"),
        pytest.param(["", "x" * (AAD_CHARACTERS_MAX + 1)], id="too-long"),
        pytest.param(["\ud83d"], id="lone-surrogate"),
    ],
)
def test_aad_out_of_bounds_is_refused(aad: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        encode_aad(aad)

    assert refused.value.field == "aad"
