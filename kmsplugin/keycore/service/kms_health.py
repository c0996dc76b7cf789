"""How a provider process knows that it works: a proof by a real encryption, and how old it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from keycore.domain.ids import ActivationId, VersionId
from keycore.domain.providers import ActivationState, OutagePolicy
from keycore.errors import KeyplaneError
from keycore.ports import Clock, Token
from keycore.service.kms_ledger import Ledger, LedgerKeeper, prove

PROBE_SECONDS = 5.0
"""How often the active key is proved by a real encryption and decryption."""

PROBE_MAX_AGE_SECONDS = 20.0
"""How old a proof may be for Status to say that all is well. A busy token can delay one
for some seconds, so a longer silence means a call that never came back."""

UNPROVED = "the key has not been proved yet"
"""The probe's fault before its first run."""

SEED_CACHE = timedelta(hours=24)
"""How long kube-apiserver keeps a seed that it has had decrypted: ``cacheTTL`` in
``pkg/storage/value/encrypt/envelope/kmsv2/envelope.go`` of ``k8s.io/apiserver`` 0.37. An
entry leaves at the first write, or Decrypt, after its time (``Expiring.Set`` in
``k8s.io/apimachinery``), and every write keeps the seed that it used for as long again.
So reads last so long at least; a restart of the API server ends them at once."""

_SEED_MINUTES = int(SEED_CACHE.total_seconds()) // 60


@dataclass(frozen=True, slots=True)
class KmsStatus:
    """The answer to Status.

    Attributes:
        healthz: ``ok``, or what is wrong and what to do.
        key_id: the active activation's id; empty when there is none, which makes
            the API server refuse writes.
    """

    healthz: str
    key_id: str


@dataclass(frozen=True, slots=True)
class SeedsReadable:
    """How long API servers can read on during an outage.

    Attributes:
        first_seconds: until the first seed that this node has handed out leaves a cache.
        last_seconds: until the last one does; nothing can be read afterwards.
    """

    first_seconds: float
    last_seconds: float


@dataclass(frozen=True, slots=True)
class KmsReport:
    """Everything that metrics, health and the administrator are told.

    Attributes:
        token_fault: what is wrong with the token or the write key; empty when well.
        store_fault: why the store could not be asked; the provider serves on.
        probe_age_seconds: since the last proof that succeeded; infinite before it.
        refreshed_seconds_ago: since the ledger was last looked at.
        generations: activations of the ledger by state.
        faults: activations that cannot be loaded, with the reason.
        from_keyring: the ledger is the keyring's; the store was not read since the start.
        seeds_readable: ``None`` while the token answers.
        expires_at: when the provider's key expires, which stops nothing.
        uses_ratio: share of its uses that the active version has used up, 0.0 to 1.0;
            ``None`` when it is not known.
    """

    status: KmsStatus
    token_fault: str
    store_fault: str
    keyring_fault: str
    probe_age_seconds: float
    refreshed_seconds_ago: float
    generations: Mapping[ActivationState, int]
    faults: Mapping[ActivationId, str]
    from_keyring: bool
    outage: OutagePolicy
    seeds_readable: SeedsReadable | None
    expires_at: datetime | None
    uses_ratio: float | None = None


class SeedTimes:
    """Remembers when seeds were handed out, by the minute, for as long as caches keep them.

    Any number of threads may note, and look, at once: every minute has a place of its own,
    which is taken again a day later.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._minutes = [0] * _SEED_MINUTES

    def note(self, now: datetime) -> None:
        """Remember that a seed was handed out."""
        minute = int(now.timestamp()) // 60
        self._minutes[minute % _SEED_MINUTES] = minute

    def readable(self, now: datetime) -> SeedsReadable:
        """Tell how long what was handed out stays in caches; 0 when nothing is there."""
        left = [60 * (minute + _SEED_MINUTES) - now.timestamp() for minute in self._minutes]
        # A clock that was ahead once must not promise more than there is.
        left = [min(seconds, SEED_CACHE.total_seconds()) for seconds in left if seconds > 0]
        return SeedsReadable(min(left, default=0.0), max(left, default=0.0))


class Probe:
    """Proves token and write key, and remembers how that went.

    Attributes:
        fault: what was wrong the last time; empty for nothing.
        proved_at: when a proof last succeeded, monotonic seconds.
    """

    def __init__(self, token: Token, keeper: LedgerKeeper, clock: Clock) -> None:
        """Prove the active generation of ``keeper`` on ``token``."""
        self._token = token
        self._keeper = keeper
        self._clock = clock
        self._proved: VersionId | None = None
        self.fault = UNPROVED
        self.proved_at = float("-inf")

    def run(self) -> None:
        """Prove now, unless the same key was proved a moment ago; never raises a domain error.

        A failed proof is repeated at every call, so that health is good again soon.
        """
        ledger = self._keeper.ledger
        version = ledger.active.version.id if ledger.active else None
        fresh = self._clock.monotonic() - self.proved_at < PROBE_SECONDS
        if fresh and not self.fault and version == self._proved:
            return
        started = self._clock.monotonic()
        try:
            self._prove(ledger)
        except KeyplaneError as error:
            self.fault = error.message
            return
        self.fault, self.proved_at, self._proved = "", started, version

    def _prove(self, ledger: Ledger) -> None:
        self._token.check()
        if ledger.active is not None:
            prove(self._token, ledger.active.key, ledger.active.version)
