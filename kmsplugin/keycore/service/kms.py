"""What one KMS v2 provider process knows and does, apart from gRPC.

The store is read by :meth:`KmsProvider.refresh` alone, which a background loop
calls. Status, Encrypt and Decrypt work on the last snapshot of the ledger, so
they go on when the store is out of reach, and Status needs no HSM either.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keycore.domain import envelope
from keycore.domain.envelope import Face
from keycore.domain.ids import ActivationId
from keycore.domain.keys import Key, KeyVersion
from keycore.domain.providers import Activation, Provider
from keycore.errors import (
    CiphertextRejectedError,
    IntegrityError,
    InvalidRequestError,
    KeyplaneError,
    ProviderUnboundError,
    StoreUnavailableError,
    UnavailableError,
)
from keycore.ports import Clock, RootKeys, Store, Token
from keycore.service.caller import Auditor, Caller
from keycore.service.cipher import EnvelopeCipher, usable
from keycore.service.providers import ProviderService
from keycore.service.records import Records, Unit
from keycore.service.use_budget import UseBudget

CIPHERTEXT_BYTES_MAX = 1024
"""The API server refuses a longer ciphertext (``kms-v2-contract``, wire format)."""

PLAINTEXT_BYTES_MAX = CIPHERTEXT_BYTES_MAX - envelope.OVERHEAD_BYTES
"""978 bytes; the API server's seeds have 32."""

HEARTBEAT_SECONDS = 10.0
"""How often a node tells the store that it is alive when nothing else changes."""

PROBE_SECONDS = 5.0
"""How often the active key is proved by a real encryption and decryption."""

STALE_SECONDS = 20.0
"""How long ago the last refresh may have ended. A busy store can delay one for 15
seconds, so a longer silence means a call of the token or the store that never came
back, and that would otherwise leave the health as it was: good."""

KMS_USES_AHEAD = 256
"""Uses that one provider process takes from the store at a time. The API server asks
for an encryption at its start and at each new key_id, so this lasts for months, and a
provider in a restart loop of one second takes half a year to use a version up."""

HEALTHY = "ok"
"""The one healthz text that kube-apiserver takes for healthy."""


@dataclass(frozen=True, slots=True)
class Generation:
    """An activation together with the key version that it stands for."""

    activation: Activation
    key: Key = field(repr=False)
    version: KeyVersion = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ledger:
    """An immutable snapshot of everything that this provider can decrypt.

    Attributes:
        loaded: every live activation up to this sequence is in ``generations``.
        faults: activations that could not be loaded, with the reason.
    """

    provider: Provider | None = None
    generations: Mapping[ActivationId, Generation] = field(default_factory=dict)
    loaded: int = 0
    faults: Mapping[ActivationId, str] = field(default_factory=dict)

    @property
    def active(self) -> Generation | None:
        """The generation that encrypts."""
        active = self.provider.active if self.provider else None
        return self.generations.get(active.id) if active else None


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


class KmsProvider:
    """Serves one provider on one node."""

    def __init__(
        self,
        name: str,
        node: str,
        *,
        store: Store,
        records: Records,
        providers: ProviderService,
        token: Token,
        cipher: EnvelopeCipher,
        budget: UseBudget,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        """Serve provider ``name`` as node ``node``; nothing is read before :meth:`refresh`."""
        self._name = name
        self._node = node
        self._store = store
        self._records = records
        self._providers = providers
        self._token = token
        self._cipher = cipher
        self._budget = budget
        self._auditor = auditor
        self._clock = clock
        self._ledger = Ledger()
        self._expires_at: datetime | None = None
        self._reported: Generation | None = None
        self._sequence = 0
        self._told = -1
        self._told_at = float("-inf")
        self._probed_at = float("-inf")
        self._store_fault = "the store has not been read yet"
        self._probe_fault = "the key has not been proved yet"
        self._refreshed_at = clock.monotonic()
        self._refreshing = threading.Lock()

    # --- the three calls of the protocol -------------------------------------

    def status(self) -> KmsStatus:
        """Answer Status from memory: no HSM call, no store, no lock.

        The activation reported here is the one that Encrypt uses until the next
        Status, because the API server throws away ciphertexts under another one.
        """
        ledger = self._ledger
        if ledger.active is not None:
            self._reported = ledger.active
        return self._status_of(ledger)

    def outlook(self) -> KmsStatus:
        """Return what Status would answer now, without fixing the activation for Encrypt."""
        return self._status_of(self._ledger)

    def warning(self) -> str:
        """Return what is not wrong yet but soon may be; empty for nothing.

        It never shows in Status: a red healthz would stop the API server, and the
        expiry of a key must not.
        """
        provider, expires_at = self._ledger.provider, self._expires_at
        if provider is None or expires_at is None or expires_at > self._clock.now():
            return ""
        return (
            f"key {provider.key_id} expired at {expires_at:%Y-%m-%dT%H:%M:%SZ} and still serves "
            f"provider {self._name}; move its expiration date or bind another key"
        )

    def encrypt(self, caller: Caller, plaintext: bytes) -> tuple[bytes, ActivationId]:
        """Encrypt a seed under the activation that Status last reported.

        Args:
            caller: the API server's request, with its ``uid`` as correlation id.
            plaintext: 1..978 bytes.

        Returns:
            The ciphertext (47..1024 bytes) and the ``key_id`` it belongs to.

        Raises:
            InvalidRequestError: plaintext out of bounds.
            ProviderUnboundError: there is no active key.
            KeyExhaustedError: the version has reached its bound.
            TokenUnavailableError: the token did not answer.
        """
        with self._auditor.decision(caller, "kms.encrypt", provider=self._name) as decision:
            if not 1 <= len(plaintext) <= PLAINTEXT_BYTES_MAX:
                raise InvalidRequestError(
                    f"plaintext must have 1 to {PLAINTEXT_BYTES_MAX} bytes", field="plaintext"
                )
            generation = self._writing_generation()
            activation_id = generation.activation.id
            decision.note(key_id=activation_id, version=generation.version.id)
            ciphertext = self._cipher.encrypt(
                Face.KMS, generation.key, generation.version, plaintext, _aad(activation_id)
            )
            return ciphertext, activation_id

    def decrypt(self, caller: Caller, ciphertext: bytes, key_id: str) -> bytes:
        """Decrypt what :meth:`encrypt` returned, on this or any other node.

        Args:
            caller: the API server's request, with its ``uid`` as correlation id.
            ciphertext: 47..1024 bytes.
            key_id: must be in the ledger; every other one is refused unread.

        Raises:
            CiphertextMalformedError: not a ciphertext of this format.
            CiphertextRejectedError: unknown ``key_id``, or it does not open.
            UnavailableError: the ledger was not read yet, or the key of this
                ``key_id`` could not be loaded yet, or the token did not answer.
        """
        with self._auditor.decision(caller, "kms.decrypt", provider=self._name) as decision:
            ledger = self._ledger
            generation = ledger.generations.get(ActivationId(key_id))
            if generation is None:
                raise self._unservable(ledger, ActivationId(key_id))
            decision.note(key_id=key_id, version=generation.version.id)
            parsed = envelope.parse(ciphertext)
            if parsed.version_id != generation.version.id:
                raise CiphertextRejectedError
            return self._cipher.decrypt(Face.KMS, generation.key, parsed, _aad(key_id))

    def _writing_generation(self) -> Generation:
        ledger, reported = self._ledger, self._reported
        if reported is not None and reported.activation.id in ledger.generations:
            return reported
        if ledger.active is None:
            raise ProviderUnboundError(self._why_unbound(ledger))
        # An Encrypt before the first Status fixes the activation as well.
        self._reported = ledger.active
        return ledger.active

    # --- the background ------------------------------------------------------

    def refresh(self) -> None:
        """Read the ledger if it changed, load what is new, tell the store, prove the key.

        Called every half second; it never raises a domain error, but keeps the
        reason for :meth:`status` and goes on serving the last snapshot.
        """
        with self._refreshing:
            try:
                self._read_ledger()
                self._report()
                # The report may have activated what was pending.
                self._read_ledger()
                self._store_fault = ""
            except KeyplaneError as error:
                self._store_fault = error.message
            self._probe()
            self._refreshed_at = self._clock.monotonic()

    def _read_ledger(self) -> None:
        sequence = self._store.changes_since(self._sequence).sequence
        # A load that failed for a passing reason is tried again at every call.
        if sequence == self._sequence and not self._ledger.faults:
            return
        with self._records.reading() as unit:
            provider = unit.find_provider(self._name)
            self._ensure_not_shrunk(provider)
            ledger = self._load(unit, provider) if provider else Ledger()
            expires_at = _expiry(unit, provider) if provider else None
        gone = self._ledger.generations.keys() - ledger.generations.keys()
        self._token.forget(self._ledger.generations[gone_id].version.id for gone_id in gone)
        self._ledger = ledger
        self._expires_at = expires_at
        self._sequence = sequence

    def _ensure_not_shrunk(self, provider: Provider | None) -> None:
        # Nothing here ever shortens a ledger; somebody removed or replaced the row, and
        # following it would give up what the API server's objects need.
        known = len(self._ledger.provider.activations) if self._ledger.provider else 0
        if known > (len(provider.activations) if provider else 0):
            raise IntegrityError("provider", self._name)

    def _load(self, unit: Unit, provider: Provider) -> Ledger:
        generations: dict[ActivationId, Generation] = {}
        faults: dict[ActivationId, str] = {}
        loaded = 0
        for activation in provider.activations:
            if activation in provider.live:
                try:
                    generations[activation.id] = self._generation(unit, activation)
                except KeyplaneError as error:
                    faults[activation.id] = error.message
            if not faults:
                loaded = activation.sequence
        return Ledger(provider, generations, loaded, faults)

    def _generation(self, unit: Unit, activation: Activation) -> Generation:
        """Return what an activation stands for, proved to work in this process."""
        known = self._ledger.generations.get(activation.id)
        if known is not None:
            return Generation(activation, known.key, known.version)
        key = unit.key(activation.key_id)
        version = key.version(activation.version_id)
        if version is None:
            raise IntegrityError("provider", self._name)
        prove(self._token, key, version)
        return Generation(activation, key, version)

    def _report(self) -> None:
        due = self._clock.monotonic() - self._told_at >= HEARTBEAT_SECONDS
        if due or self._ledger.loaded != self._told:
            self._providers.report(self._name, self._node, self._ledger.loaded)
            self._told = self._ledger.loaded
            self._told_at = self._clock.monotonic()

    def _probe(self) -> None:
        if self._clock.monotonic() - self._probed_at < PROBE_SECONDS:
            return
        active = self._ledger.active
        try:
            self._token.check()
            if active is not None:
                prove(self._token, active.key, active.version)
                self._budget.prepare(active.version.id)
            self._probe_fault = ""
        except StoreUnavailableError:
            # The block of uses in memory lasts; the store's fault is told elsewhere.
            self._probe_fault = ""
        except KeyplaneError as error:
            self._probe_fault = error.message
        self._probed_at = self._clock.monotonic()

    # --- words ---------------------------------------------------------------

    def _unservable(self, ledger: Ledger, key_id: ActivationId) -> KeyplaneError:
        """Tell a ``key_id`` that was never given out from one that cannot be served yet."""
        if ledger.provider is None and self._store_fault:
            return UnavailableError(self._store_fault)
        if key_id in ledger.faults:
            return UnavailableError(ledger.faults[key_id])
        return CiphertextRejectedError()

    def _status_of(self, ledger: Ledger) -> KmsStatus:
        active = ledger.active
        if active is None:
            return KmsStatus(self._silence() or self._why_unbound(ledger), "")
        healthz = self._silence() or self._fault(ledger) or HEALTHY
        return KmsStatus(healthz, active.activation.id)

    def _silence(self) -> str:
        if self._clock.monotonic() - self._refreshed_at <= STALE_SECONDS:
            return ""
        return (
            f"token or store have not answered for more than {STALE_SECONDS:.0f} seconds; "
            "check the HSM, then restart the provider"
        )

    def _fault(self, ledger: Ledger) -> str:
        return self._probe_fault or self._store_fault or next(iter(ledger.faults.values()), "")

    def _why_unbound(self, ledger: Ledger) -> str:
        if ledger.provider is None:
            return self._store_fault or (
                f"provider {self._name} has no key; run: "
                f"keyplane provider set {self._name} --key <key id>"
            )
        return next(iter(ledger.faults.values()), "") or (
            f"provider {self._name} waits until every registered node has loaded its key; "
            f"see: keyplane provider show {self._name}"
        )


def _expiry(unit: Unit, provider: Provider) -> datetime | None:
    try:
        return unit.key(provider.key_id).expires_at
    except KeyplaneError:
        # The generation that cannot be loaded tells the fault.
        return None


def prove(root_keys: RootKeys, key: Key, version: KeyVersion) -> None:
    """Encrypt and decrypt a fixed text under one key version.

    The ciphertext is thrown away, so it is not counted against the version's bound
    ten times a minute; its nonces are as random as any. The count's bound of 2^32
    leaves room for that: a probe every five seconds makes 2^32 in 680 years.

    Raises:
        IntegrityError: what came back is not what went in.
        CiphertextRejectedError: the token cannot open what it has just closed.
        TokenUnavailableError: the token did not answer.
    """
    wrapped = usable(key, version)
    body = root_keys.encrypt(wrapped, _PROBE_TEXT, _PROBE_TEXT)
    if root_keys.decrypt(wrapped, body, _PROBE_TEXT) != _PROBE_TEXT:
        raise IntegrityError("key", key.id)


_PROBE_TEXT = b"keyplane/probe/1"


def _aad(activation_id: str) -> tuple[bytes, ...]:
    return (activation_id.encode(),)
