"""What Prometheus is told about the operator. ``docs/metrics.md`` is the list.

No name of a Key, a namespace or a Secret is a label: they are as many as users like.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keycore.bootstrap import Core
from keycore.domain.keys import Key
from keycore.ports import Clock
from keywatch.audit import AUDIT, follow_audit
from keywatch.families import BUILD, PROCESS, Family, Kind
from keywatch.looks import Look
from keywatch.metrics import Metrics, Values
from keywatch.store import STORE, follow_store
from keywatch.token import TOKEN, TokenUses, follow_token

FACE: Final = "operator"
"""This face's name in audit lines and on the command line."""

RECONCILES: Final = Family(
    "keyplane_operator_reconciles_total",
    Kind.COUNTER,
    "Looks at a Key, by outcome: ok, or the reason that stands in its condition then, such as "
    "TokenUnavailable, KeyInUse or InternalError.",
    ("outcome",),
)
RECONCILE_SECONDS: Final = Family(
    "keyplane_operator_reconcile_seconds",
    Kind.HISTOGRAM,
    "How long looks at a Key took, from the lock of the Key to what is to be written.",
)
KEYS: Final = Family(
    "keyplane_operator_keys",
    Kind.GAUGE,
    "Key resources of the cluster by their condition Ready: True, False, Unknown.",
    ("ready",),
)
KEY_EXPIRY: Final = Family(
    "keyplane_operator_key_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When the first key of a Key resource will expire, in Unix time; absent when none will.",
)

FAMILIES: Final = (
    BUILD,
    *PROCESS,
    RECONCILES,
    RECONCILE_SECONDS,
    KEYS,
    KEY_EXPIRY,
    *TOKEN,
    *STORE,
    *AUDIT,
)
"""Everything that an operator process tells."""

READY_VALUES: Final = ("True", "False", "Unknown")
"""What a condition may be (Kubernetes API conventions, typical status properties)."""

OK: Final = "ok"
"""The outcome of a look that nothing kept from its end."""

FORGOTTEN_SECONDS: Final = 3600.0
"""Every Key is looked at again by a timer. One that was not for so long, and for three
times the interval, is not there any more, although nobody told us of its end."""


@dataclass(frozen=True, slots=True)
class _Known:
    ready: str
    expires_at: datetime | None
    seen_at: float


class KnownKeys:
    """The Keys that were looked at, as they were then. Any thread may call it."""

    def __init__(self, clock: Clock, *, resync_seconds: float) -> None:
        """Know none; each is looked at every ``resync_seconds``."""
        self._clock = clock
        self._age_max = max(FORGOTTEN_SECONDS, 3 * resync_seconds)
        self._keys: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def note(self, uid: str, ready: str, key: Key | None) -> None:
        """Remember how a resource was found.

        Args:
            uid: of the resource.
            ready: one of :data:`READY_VALUES`.
            key: its key; without one the expiry that was known before stays.
        """
        with self._lock:
            before = self._keys.get(uid)
            expires_at = key.expires_at if key else before.expires_at if before else None
            self._keys[uid] = _Known(ready, expires_at, self._clock.monotonic())

    def forget(self, uid: str) -> None:
        """Count a resource no more, because it is gone."""
        with self._lock:
            self._keys.pop(uid, None)

    def told(self) -> Mapping[Family, float | Values | None]:
        """Return how many there are, and when the first of them will expire."""
        now, oldest = self._clock.now(), self._clock.monotonic() - self._age_max
        with self._lock:
            self._keys = {uid: key for uid, key in self._keys.items() if key.seen_at >= oldest}
            keys = tuple(self._keys.values())
        counts = Counter(key.ready for key in keys)
        coming = (key.expires_at for key in keys if key.expires_at and key.expires_at > now)
        first = min(coming, default=None)
        return {
            KEYS: {(ready,): counts[ready] for ready in READY_VALUES},
            KEY_EXPIRY: first.timestamp() if first else None,
        }


class OperatorMetrics:
    """All metrics of the operator's process.

    Attributes:
        all: where they are shown.
    """

    def __init__(self) -> None:
        """Count nothing yet; :meth:`follow` adds what the operator itself knows."""
        self.all = Metrics(FACE)
        self._reconciles = self.all.counter(RECONCILES)
        self._seconds = self.all.histogram(RECONCILE_SECONDS)
        self._uses = TokenUses(self.all)
        # There before anything goes wrong, so that the first fault is seen as a rise.
        self._reconciles.labels(OK)

    def observe_token(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one use of the token (:data:`keycore.ports.TokenObserver`)."""
        self._uses.add(operation, outcome, seconds)

    def count(self, outcome: str, seconds: float) -> None:
        """Count one look at a Key.

        Args:
            outcome: :data:`OK`, or one of the reasons of :mod:`keyoperator.errors`.
            seconds: how long it took.
        """
        self._reconciles.labels(outcome).inc()
        self._seconds.observe(seconds)

    def follow(self, core: Core, keys: KnownKeys, store: Look) -> None:
        """Show what the operator knows.

        Args:
            core: its use cases.
            keys: the Keys that it has looked at.
            store: how the last look at the store went.
        """
        self.all.follow((KEYS, KEY_EXPIRY), keys.told)
        follow_token(self.all, core.token.condition)
        follow_store(
            self.all, core.settings.store, fault=store.fault, age_seconds=store.age_seconds
        )
        follow_audit(self.all, core.auditor.condition)
