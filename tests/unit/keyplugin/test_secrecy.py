"""A seed is recognised in a text however a program has printed it."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

import pytest

from keyplugin.measuring import judged_times, percentile
from keyplugin.secrecy import shows

SEED = bytes(range(7, 256, 8))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda part: part.hex(),
        lambda part: part.hex().upper(),
        lambda part: part.hex(" "),
        lambda part: part.hex(":"),
        repr,
        lambda part: str(list(part)),
        lambda part: f"[{' '.join(map(str, part))}]",
        lambda part: base64.b64encode(part).decode(),
        lambda part: part.decode("latin-1"),
    ],
    ids=["hex", "HEX", "blanks", "colons", "repr", "list", "Go", "base64", "bytes"],
)
@pytest.mark.parametrize("part", [SEED, SEED[9:21]], ids=["whole", "part"])
def test_every_spelling_of_a_part_is_found(spelling: Callable[[bytes], str], part: bytes) -> None:
    assert shows(f"cannot open {spelling(part)} today", SEED)


def test_what_holds_no_part_is_not_taken_for_one() -> None:
    assert not shows("", SEED)
    assert not shows("the ciphertext is invalid or corrupted", SEED)
    assert not shows(os.urandom(32).hex(), bytes(range(32)))
    assert not shows(SEED[:5].hex(), SEED)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    percent: int, expected: int
) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([3.0], 99) == 3.0


@pytest.mark.parametrize(("most", "outcome"), [(0.1, "ok"), (0.2, "warning")])
def test_slow_calls_are_a_warning(most: float, outcome: str) -> None:
    found = judged_times("Status", [0.001, most], slow_seconds=0.1)

    assert found.outcome == outcome
    assert f"{1000 * most:.1f} ms (p99) of 2 calls" in found.what
