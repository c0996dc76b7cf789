"""How long calls took, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keycore.diagnosis.findings import Verdict, ok, warning

STATUS_SECONDS_SLOW: Final = 0.1
"""Status is made of memory; the API server itself gives up after 3 seconds."""

ENCRYPT_SECONDS_SLOW: Final = 0.1
"""What Kubernetes asks of Encrypt."""

DECRYPT_SECONDS_SLOW: Final = 0.01
"""What Kubernetes asks of Decrypt."""


def judged_times(what: str, seconds: Sequence[float], *, slow_seconds: float) -> Verdict:
    """Say how long calls took.

    Args:
        what: the calls, as the beginning of a sentence.
        seconds: how long each took; not empty.
        slow_seconds: what 99 of 100 should not exceed.
    """
    middle, most = percentile(seconds, 50), percentile(seconds, 99)
    words = (
        f"{what}: {1000 * middle:.1f} ms (p50), {1000 * most:.1f} ms (p99) of {len(seconds)} calls"
    )
    if most > slow_seconds:
        return warning(f"{words}; expected are less than {1000 * slow_seconds:.0f} ms")
    return ok(words)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
