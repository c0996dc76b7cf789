"""The ciphertext format: exact bytes, strict parsing, and what its tag covers."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keycore.domain import envelope
from keycore.domain.envelope import (
    AAD_CHARACTERS_MAX,
    AAD_ITEMS_MAX,
    OVERHEAD_BYTES,
    PLAINTEXT_BYTES_MAX,
    USES_MAX,
    Face,
    authenticated_data,
    check_plaintext,
    encode_aad,
    header_of,
    parse,
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

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "envelope.json").read_text(encoding="utf-8")
)
CASES = [pytest.param(case, id=case["name"]) for case in VECTORS["cases"]]


class FixedRootKeys(InsecureMemoryToken):
    """Root keys that are not wrapped at all, and one nonce for every encryption."""

    def __init__(self, nonce: bytes) -> None:
        super().__init__()
        self._nonce = nonce
        self.decryptions = 0

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        return self._nonce + AESGCM(key.blob).encrypt(self._nonce, plaintext, aad)

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        self.decryptions += 1
        try:
            return AESGCM(key.blob).decrypt(body[:12], body[12:], aad)
        except InvalidTag:
            raise CiphertextRejectedError from None


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


def vector_cipher(nonce: str) -> tuple[EnvelopeCipher, FixedRootKeys]:
    """Return a cipher on fixed root keys whose versions have uses left."""
    store, root_keys = MemoryStore(), FixedRootKeys(bytes.fromhex(nonce))
    store._tables.uses = {FIRST_VERSION_ID: 0, SECOND_VERSION_ID: 0}
    return EnvelopeCipher(root_keys, UseBudget(store)), root_keys


@pytest.mark.parametrize("case", CASES)
def test_a_ciphertext_has_exactly_the_bytes_of_the_vector(case: dict[str, Any]) -> None:
    cipher, _ = vector_cipher(case["nonce"])
    key = vector_key()

    made = cipher.encrypt(
        Face(case["face"]),
        key,
        key.current,
        bytes.fromhex(case["plaintext"]),
        encode_aad(case["aad"]),
    )

    assert made.hex() == case["envelope"]
    assert case["envelope"] == (case["header"] + case["nonce"] + case["ciphertext"] + case["tag"])


@pytest.mark.parametrize("case", CASES)
def test_the_vector_is_opened(case: dict[str, Any]) -> None:
    cipher, root_keys = vector_cipher(case["nonce"])

    opened = cipher.decrypt(
        Face(case["face"]),
        vector_key(),
        parse(bytes.fromhex(case["envelope"])),
        encode_aad(case["aad"]),
    )

    assert opened.hex() == case["plaintext"]
    assert root_keys.decryptions == 1


@pytest.mark.parametrize("case", CASES)
def test_header_and_authenticated_data_have_the_vectors_bytes(case: dict[str, Any]) -> None:
    key = vector_key()
    header = header_of(key.current.id)

    assert header.hex() == case["header"]
    assert (
        authenticated_data(Face(case["face"]), key, header, encode_aad(case["aad"])).hex()
        == case["authenticated_data"]
    )


def test_the_field_table_describes_the_vectors() -> None:
    for case in VECTORS["cases"]:
        data = bytes.fromhex(case["envelope"])
        for row in VECTORS["fields"]:
            if row["value"] is not None:
                found = data[row["offset"] : row["offset"] + row["size"]]
                assert found.hex() == row["value"], row["field"]
    sizes = {row["field"]: row["size"] for row in VECTORS["fields"]}
    assert sizes["format"] + sizes["suite"] + sizes["version_id"] == envelope.HEADER_BYTES
    assert (sizes["nonce"], sizes["tag"]) == (envelope.NONCE_BYTES, envelope.TAG_BYTES)


def test_every_face_and_bound_has_its_settled_value() -> None:
    assert [face.value for face in Face] == ["keyplane/rest/1", "keyplane/kmsv2/1"]
    assert (PLAINTEXT_BYTES_MAX, OVERHEAD_BYTES) == (4096, 46)
    assert (AAD_ITEMS_MAX, AAD_CHARACTERS_MAX) == (126, 255)
    assert USES_MAX == 2**32


@given(st.uuids(), st.binary(min_size=29, max_size=28 + PLAINTEXT_BYTES_MAX))
def test_header_and_body_come_back_from_parsing(version: uuid.UUID, body: bytes) -> None:
    parsed = parse(header_of(VersionId(str(version))) + body)

    assert (parsed.version_id, parsed.body) == (str(version), body)
    assert parsed.header + parsed.body == header_of(VersionId(str(version))) + body


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_parsed_or_refused_as_malformed(data: bytes) -> None:
    try:
        parsed = parse(data)
    except CiphertextMalformedError:
        return

    assert parsed.header + parsed.body == data


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0, id="nothing"),
        pytest.param(17, id="half-a-header"),
        pytest.param(OVERHEAD_BYTES, id="no-plaintext"),
        pytest.param(OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX + 1, id="too-long"),
    ],
)
def test_a_ciphertext_of_an_impossible_length_is_malformed(length: int) -> None:
    data = header_of(FIRST_VERSION_ID) + bytes(OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX)

    with pytest.raises(CiphertextMalformedError):
        parse(data[:length])


@pytest.mark.parametrize("length", [OVERHEAD_BYTES + 1, OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX])
def test_a_ciphertext_of_a_possible_length_is_parsed(length: int) -> None:
    data = header_of(FIRST_VERSION_ID) + bytes(OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX)

    assert parse(data[:length]).version_id == FIRST_VERSION_ID


@given(
    st.lists(st.text(max_size=8), max_size=4),
    st.lists(st.text(max_size=8), max_size=4),
    st.sampled_from(Face),
    st.sampled_from(Face),
)
def test_different_aad_or_faces_never_give_the_same_authenticated_data(
    one: list[str], other: list[str], face: Face, other_face: Face
) -> None:
    header = header_of(FIRST_VERSION_ID)

    same = authenticated_data(face, KEY, header, encode_aad(one)) == authenticated_data(
        other_face, KEY, header, encode_aad(other)
    )

    assert same == ((one, face) == (other, other_face))


def test_key_instance_and_version_are_authenticated() -> None:
    seen = {
        authenticated_data(Face.REST, key, header_of(version), ())
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
    cipher, root_keys = vector_cipher(case["nonce"])
    key = replace(vector_key(), versions=(KEY.versions[0],))

    with pytest.raises(CiphertextRejectedError):
        cipher.decrypt(Face.REST, key, parse(bytes.fromhex(case["envelope"])), ())

    assert root_keys.decryptions == 0


def test_no_other_version_is_tried_when_the_named_one_fails() -> None:
    """Trying several keys on one ciphertext would make a partition oracle."""
    case = VECTORS["cases"][0]
    cipher, root_keys = vector_cipher(case["nonce"])
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
