"""The encodings under every MAC and tag: nothing else may ever give the same bytes.

Injectivity is shown by decoding: what can be decoded to its input has no second one.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keycore.domain.framing import (
    Field,
    encode_field,
    encode_fields,
    from_microseconds,
    pre_auth_encode,
    to_microseconds,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(timezones=st.just(UTC))
FIELDS = st.one_of(st.none(), st.booleans(), INTEGERS, st.text(), st.binary(), MOMENTS)


def decode_pieces(data: bytes) -> list[bytes]:
    """Undo ``pre_auth_encode``, accepting nothing that it would not write."""
    (count,), offset, pieces = struct.unpack_from("<Q", data), 8, []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, offset)
        offset += 8
        pieces.append(data[offset : offset + length])
        assert len(pieces[-1]) == length
        offset += length
    assert offset == len(data)
    return pieces


def decode_field(data: bytes) -> Field:
    """Undo ``encode_field``."""
    letter, rest = data[:1], data[1:]
    match letter:
        case b"n" | b"t" | b"f":
            assert rest == b""
            return {b"n": None, b"t": True, b"f": False}[letter]
        case b"i":
            return int(struct.unpack(">q", rest)[0])
        case b"s":
            return rest.decode()
        case b"d":
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
                microseconds=struct.unpack(">q", rest)[0]
            )
        case _:
            assert letter == b"b"
            return rest


@given(st.lists(st.binary()))
def test_joined_pieces_can_be_taken_apart_again(pieces: list[bytes]) -> None:
    assert decode_pieces(pre_auth_encode(pieces)) == pieces


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([b"a", b"bc"], [b"ab", b"c"], id="moved-border"),
        pytest.param([b"a", b"bc"], [b"abc"], id="merged"),
        pytest.param([b"a", b"bc"], [b"a", b"", b"bc"], id="empty-between"),
        pytest.param([b"a", b"bc"], [b"bc", b"a"], id="reordered"),
        pytest.param([], [b""], id="nothing-or-one-empty"),
    ],
)
def test_lists_that_join_to_the_same_text_differ(one: list[bytes], other: list[bytes]) -> None:
    assert pre_auth_encode(one) != pre_auth_encode(other)


def test_the_pre_authentication_encoding_has_these_bytes() -> None:
    """The vectors of the PASETO specification's PAE."""
    assert pre_auth_encode([]).hex() == "0000000000000000"
    assert pre_auth_encode([b""]).hex() == "0100000000000000" + "0000000000000000"
    assert pre_auth_encode([b"test"]).hex() == (
        "0100000000000000" + "0400000000000000" + b"test".hex()
    )


@given(FIELDS)
@example(True)
@example(1)
def test_an_encoded_field_can_be_read_back_with_its_type(value: Field) -> None:
    decoded = decode_field(encode_field(value))

    assert decoded == value
    assert type(decoded) is type(value)


@given(st.lists(FIELDS))
def test_encoded_fields_can_be_read_back(values: list[Field]) -> None:
    decoded = [decode_field(piece) for piece in decode_pieces(encode_fields(values))]

    assert decoded == values
    assert [type(value) for value in decoded] == [type(value) for value in values]


def test_values_that_look_alike_are_encoded_differently() -> None:
    alike: list[Field] = [None, "", b"", False, 0, "0", b"0", datetime(1970, 1, 1, tzinfo=UTC)]

    assert len({encode_field(value) for value in alike}) == len(alike)


@given(MOMENTS)
def test_a_moment_keeps_its_microseconds(moment: datetime) -> None:
    assert from_microseconds(to_microseconds(moment)) == moment
    assert from_microseconds(to_microseconds(moment)).tzinfo is UTC


def test_one_moment_in_two_time_zones_is_one_value() -> None:
    here = datetime(2030, 1, 2, 3, tzinfo=UTC)
    there = here.astimezone(timezone(timedelta(hours=-7)))

    assert encode_field(there) == encode_field(here)


def test_a_moment_without_a_time_zone_is_not_encoded() -> None:
    """Its meaning would depend on the machine, and so would the MAC."""
    with pytest.raises(TypeError):
        encode_field(datetime(2030, 1, 2, 3))  # noqa: DTZ001


def test_a_value_of_any_other_type_is_never_encoded() -> None:
    """Better no MAC than one over something that another type could imitate."""
    odd: Any = 1.5

    with pytest.raises(AssertionError):
        encode_field(odd)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_that_does_not_fit_is_never_encoded(number: int) -> None:
    with pytest.raises(OverflowError):
        encode_field(number)
