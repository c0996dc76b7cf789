"""What is told of the store: whether it answered, when it was looked at, and which it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keycore.settings import StoreSettings
from keywatch.families import Family, Kind
from keywatch.metrics import Metrics, Values

AVAILABLE: Final = Family(
    "keyplane_store_available", Kind.GAUGE, "1 when the store answered last time."
)
REFRESH_AGE: Final = Family(
    "keyplane_store_refresh_age_seconds",
    Kind.GAUGE,
    "Since the background last looked at the store; grows while it hangs there.",
)
ENGINE: Final = Family(
    "keyplane_store_engine_info",
    Kind.GAUGE,
    "1 for what the store is: sqlite or postgresql.",
    ("engine",),
)

STORE: Final = (AVAILABLE, REFRESH_AGE, ENGINE)
"""All families of the store."""


def follow_store(
    metrics: Metrics,
    settings: StoreSettings,
    *,
    fault: Callable[[], str],
    age_seconds: Callable[[], float],
) -> None:
    """Show how the store is.

    Args:
        metrics: where to show it.
        settings: tell which store it is.
        fault: why it does not answer, from memory; empty when it does.
        age_seconds: since it was last looked at, from memory.
    """
    engine: Values = {("sqlite" if settings.embedded else "postgresql",): 1}
    metrics.follow(
        STORE,
        lambda: {AVAILABLE: not fault(), REFRESH_AGE: age_seconds(), ENGINE: engine},
    )
