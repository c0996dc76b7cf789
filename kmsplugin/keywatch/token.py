"""What is told of the token: its uses, and how they have shown it to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import Counter, Histogram

from keycore.ports import TokenCondition
from keywatch.families import Family, Kind
from keywatch.metrics import Metrics

CALLS: Final = Family(
    "keyplane_token_calls_total",
    Kind.COUNTER,
    "Uses of the token, by operation (generate, import, encrypt, decrypt, seal, unseal, sign, "
    "verify, random) and outcome (ok, or the error's code).",
    ("operation", "outcome"),
)
CALL_SECONDS: Final = Family(
    "keyplane_token_call_seconds",
    Kind.HISTOGRAM,
    "How long uses of the token took, waiting for a turn included.",
    ("operation",),
)
AVAILABLE: Final = Family("keyplane_token_available", Kind.GAUGE, "1 while the token has no fault.")
LOST: Final = Family(
    "keyplane_token_lost",
    Kind.GAUGE,
    "1 while the token itself is gone and only working copies of keys serve.",
)
STALLED: Final = Family(
    "keyplane_token_stalled_seconds",
    Kind.GAUGE,
    "How long the longest call that runs now has been inside the module.",
)

_OF_CONDITION: Final = (AVAILABLE, LOST, STALLED)

TOKEN: Final = (CALLS, CALL_SECONDS, *_OF_CONDITION)
"""All families of the token."""


class TokenUses:
    """Counts uses of the token; as cheap as it can be, because a Decrypt waits for it."""

    def __init__(self, metrics: Metrics) -> None:
        """Count in ``metrics``."""
        self._uses = metrics.counter(CALLS)
        self._seconds = metrics.histogram(CALL_SECONDS)
        # Bound to their labels ahead: that takes a third of the time.
        self._bound: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    def add(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one use (:data:`keycore.ports.TokenObserver`)."""
        bound = self._bound.get((operation, outcome))
        if bound is None:
            bound = self._uses.labels(operation, outcome), self._seconds.labels(operation)
            self._bound[operation, outcome] = bound
        bound[0].inc()
        bound[1].observe(seconds)


def follow_token(metrics: Metrics, condition: Callable[[], TokenCondition]) -> None:
    """Show how the token is; ``condition`` answers from memory."""

    def look() -> Mapping[Family, float]:
        known = condition()
        return {
            AVAILABLE: not known.fault,
            LOST: known.lost,
            STALLED: known.stalled_seconds,
        }

    metrics.follow(_OF_CONDITION, look)
