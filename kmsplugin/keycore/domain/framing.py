"""Injective encodings: different values never give the same bytes.

Used for the additional authenticated data of ciphertexts and for record MACs.
Joining fields without lengths would make ``["a", "bc"]`` and ``["ab", "c"]`` the
same bytes, and a MAC over one would be valid for the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import assert_never

Field = None | bool | int | str | bytes | datetime
"""The field types that a record may hold."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pre_auth_encode(pieces: Iterable[bytes]) -> bytes:
    """Join ``pieces`` reversibly: LE64(count), then LE64(length) and bytes of each (PASETO PAE)."""
    listed = list(pieces)
    return count_bytes(len(listed)) + frame(listed)


def count_bytes(count: int) -> bytes:
    """Return the number of pieces as :func:`pre_auth_encode` begins with it."""
    return count.to_bytes(8, "little")


def frame(pieces: Iterable[bytes]) -> bytes:
    """Return lengths and bytes of pieces; injective only behind :func:`count_bytes`."""
    framed = []
    for piece in pieces:
        framed.append(len(piece).to_bytes(8, "little"))
        framed.append(piece)
    return b"".join(framed)


def encode_field(value: Field) -> bytes:
    """Return a type letter and the value's bytes, so that ``None``, ``""`` and ``0`` differ."""
    match value:
        case None:
            return b"n"
        case bool():
            return b"t" if value else b"f"
        case int():
            return b"i" + value.to_bytes(8, "big", signed=True)
        case str():
            return b"s" + value.encode()
        case datetime():
            return b"d" + to_microseconds(value).to_bytes(8, "big", signed=True)
        case bytes():
            return b"b" + value
        case _:
            assert_never(value)


def encode_fields(values: Iterable[Field]) -> bytes:
    """Return the injective encoding of a sequence of fields."""
    return pre_auth_encode(encode_field(value) for value in values)


def to_microseconds(moment: datetime) -> int:
    """Return whole microseconds since 1970-01-01 UTC of an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(count: int) -> datetime:
    """Return the aware UTC datetime that is ``count`` microseconds after 1970-01-01."""
    return _EPOCH + timedelta(microseconds=count)
