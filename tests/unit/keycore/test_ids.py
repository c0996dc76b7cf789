"""Identifiers: one spelling for each, and never one twice."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycore.domain.ids import new_uuid, parse_instance_id, parse_key_id, parse_uuid, uuid_bytes
from keycore.errors import InvalidRequestError

ID = "0b000000-0000-4000-8000-00000000abcd"


def test_new_ids_are_random_canonical_uuids() -> None:
    made = {new_uuid() for _ in range(1000)}

    assert len(made) == 1000
    assert {uuid.UUID(text).version for text in made} == {4}
    assert all(parse_uuid(text, field="id") == text for text in made)


@given(st.uuids())
def test_either_case_is_read_as_the_canonical_text(chosen: uuid.UUID) -> None:
    assert parse_uuid(str(chosen).upper(), field="id") == str(chosen)
    assert uuid_bytes(str(chosen)) == chosen.bytes


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("etcd", id="a-name"),
        pytest.param(ID.replace("-", ""), id="bare-hex"),
        pytest.param(f"{{{ID}}}", id="braces"),
        pytest.param(f"urn:uuid:{ID}", id="urn"),
        pytest.param(f" {ID}", id="leading-space"),
        pytest.param(f"{ID}\n", id="line-feed"),
        pytest.param(ID[:-1], id="too-short"),
        pytest.param(ID.replace("0b", "٠b"), id="other-digits"),
    ],
)
def test_any_other_spelling_is_refused_with_the_fields_name(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_key_id(text)

    assert refused.value.field == "key id"
    with pytest.raises(InvalidRequestError) as refused:
        parse_instance_id(text)
    assert refused.value.field == "instance id"


def test_ids_of_both_kinds_are_read() -> None:
    assert parse_key_id(ID) == ID
    assert parse_instance_id(ID) == ID
