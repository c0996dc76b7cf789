"""Strict reading of base64url and of JSON objects, for credentials and for key sets.

Two readers of one text must never find two meanings in it, so everything that is
not the one canonical form is refused. Refusal is ``None`` and not an exception,
because those of the standard library keep the text that they failed on.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import Any, NoReturn

_ALPHABET = re.compile(rb"[A-Za-z0-9_-]*")


def read_base64url(text: bytes) -> bytes | None:
    """Return the bytes of unpadded base64url (RFC 7515, 2), or ``None``.

    Texts that only differ in unused last bits would be two credentials with one
    meaning, so these bits must be zero.
    """
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        return None
    decoded = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    canonical = base64.urlsafe_b64encode(decoded).rstrip(b"=")
    return decoded if canonical == text else None


def read_object(data: bytes) -> dict[str, Any] | None:
    """Return a JSON object (RFC 8259) in UTF-8, or ``None``.

    A name that occurs twice (RFC 8259, 4: what receivers do differs), NaN and
    infinities, and nesting beyond Python's recursion limit are refused too.
    """
    # A RecursionError is Python's own guard in the C parser: nothing is lost by it.
    with suppress(ValueError, RecursionError):
        # Not bytes, which json would also read as UTF-16 and UTF-32.
        value = _DECODER.decode(data.decode("utf-8"))
        if isinstance(value, dict):
            return value
    return None


def _refuse_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_refuse_repeated_names, parse_constant=_refuse_constant
)
