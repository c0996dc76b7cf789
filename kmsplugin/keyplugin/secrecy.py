"""Finds out whether a text shows a part of a seed, in the ways in which programs print bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Final

_WINDOW_BYTES: Final = 6
"""Six bytes in a row are in no text by chance."""


def shows(text: str, seed: bytes) -> bool:
    """Tell whether ``text`` holds six bytes of ``seed`` in a row.

    Looked for are the bytes themselves, hexadecimal with and without separators, Python's
    escapes, decimal lists, and base64.
    """
    squeezed = "".join(text.lower().split())
    return any(part in squeezed for part in _spellings(seed)) or any(
        part in text for part in _base64_spellings(seed)
    )


def _spellings(seed: bytes) -> Iterator[str]:
    for start in range(len(seed) - _WINDOW_BYTES + 1):
        window = seed[start : start + _WINDOW_BYTES]
        yield window.hex()
        yield window.hex(":")
        yield "".join(repr(window)[2:-1].lower().split())
        yield ",".join(map(str, window))
        yield "".join(window.decode("latin-1").lower().split())
        # Go prints a slice of bytes as decimal numbers between blanks.
        yield "".join(map(str, window))


def _base64_spellings(seed: bytes) -> Iterator[str]:
    # Every third byte begins a group of four characters; two groups are eight of them.
    for start in range(len(seed) - _WINDOW_BYTES + 1):
        yield b64encode(seed[start : start + _WINDOW_BYTES]).decode("ascii")
