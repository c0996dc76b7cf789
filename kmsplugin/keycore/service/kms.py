"""What one KMS v2 provider process knows and does, apart from gRPC.

Status, Encrypt and Decrypt work on a snapshot of the ledger, which is kept fresh in the
background, so they go on when the store is out of reach; Status needs no HSM either.
"""

from __future__ import annotations

import threading
from collections import Counter

from keycore.domain import envelope
from keycore.domain.envelope import Face
from keycore.domain.ids import ActivationId
from keycore.domain.keyring import NodeKeyring
from keycore.domain.providers import OutagePolicy
from keycore.errors import (
    CiphertextRejectedError,
    InvalidRequestError,
    KeyplaneError,
    ProviderUnboundError,
    TokenUnavailableError,
    UnavailableError,
)
from keycore.ports import Clock, Token
from keycore.service.caller import Auditor, Caller
from keycore.service.cipher import EnvelopeCipher
from keycore.service.kms_health import (
    PROBE_MAX_AGE_SECONDS,
    UNPROVED,
    KmsReport,
    KmsStatus,
    Probe,
    SeedsReadable,
    SeedTimes,
)
from keycore.service.kms_ledger import Generation, Ledger, LedgerKeeper

CIPHERTEXT_BYTES_MAX = 1024
"""The API server refuses a longer ciphertext (``kms-v2-contract``, wire format)."""

STALE_SECONDS = 20.0
"""How long ago the last look at the store may have ended. A busy store can delay one for
15 seconds, so a longer silence means a call that never came back."""

HEALTHY = "ok"
"""The one healthz text that kube-apiserver takes for healthy."""


class KmsProvider:
    """Serves one provider on one node."""

    def __init__(
        self,
        name: str,
        *,
        keeper: LedgerKeeper,
        probe: Probe,
        token: Token,
        cipher: EnvelopeCipher,
        outage: OutagePolicy,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        """Serve provider ``name``; nothing is read before :meth:`refresh`."""
        self._name = name
        self._keeper = keeper
        self._probe = probe
        self._token = token
        self._cipher = cipher
        self._plaintext_bytes_max = token.suite.plaintext_bytes_max(CIPHERTEXT_BYTES_MAX)
        self._outage = outage
        self._auditor = auditor
        self._clock = clock
        self._reported: Generation | None = None
        self._seeds = SeedTimes()
        self._refreshing = threading.Lock()

    # --- the three calls of the protocol -------------------------------------

    def status(self) -> KmsStatus:
        """Answer Status from memory: no HSM call, no store, no lock.

        The activation reported here is the one that Encrypt uses until the next
        Status, because the API server throws away ciphertexts under another one.
        """
        ledger = self._keeper.ledger
        if ledger.active is not None:
            self._reported = ledger.active
        return self._status_of(ledger)

    def outlook(self) -> KmsStatus:
        """Return what Status would answer now, without fixing the activation for Encrypt."""
        return self._status_of(self._keeper.ledger)

    def encrypt(self, caller: Caller, plaintext: bytes) -> tuple[bytes, ActivationId]:
        """Encrypt a seed under the activation that Status last reported.

        Args:
            caller: the API server's request, with its ``uid`` as correlation id.
            plaintext: 1..978 bytes for a token with GCM, 1..943 for one without; the
                API server's seeds have 32.

        Returns:
            The ciphertext (up to 1024 bytes) and the ``key_id`` it belongs to.

        Raises:
            InvalidRequestError: plaintext out of bounds.
            ProviderUnboundError: there is no active key.
            KeyExhaustedError: the version has reached its bound.
            TokenUnavailableError: the token did not answer.
            StoreUnavailableError: no counted uses are left, and none can be had now.
        """
        with self._auditor.decision(caller, "kms.encrypt", provider=self._name) as decision:
            longest = self._plaintext_bytes_max
            if not 1 <= len(plaintext) <= longest:
                raise InvalidRequestError(
                    f"plaintext must have 1 to {longest} bytes", field="plaintext"
                )
            fault = self._token_fault()
            if fault and fault != UNPROVED and self._outage is OutagePolicy.FAIL_CLOSED:
                raise TokenUnavailableError(fault)
            generation = self._writing_generation()
            activation_id = generation.activation.id
            decision.note(key_id=activation_id, version=generation.version.id)
            ciphertext = self._cipher.encrypt(
                Face.KMS, generation.key, generation.version, plaintext, _aad(activation_id)
            )
            self._seeds.note(self._clock.now())
            return ciphertext, activation_id

    def decrypt(self, caller: Caller, ciphertext: bytes, key_id: str) -> bytes:
        """Decrypt what :meth:`encrypt` returned, on this or any other node.

        Args:
            caller: the API server's request, with its ``uid`` as correlation id.
            ciphertext: up to 1024 bytes.
            key_id: must be in the ledger; every other one is refused unread.

        Raises:
            CiphertextMalformedError: not a ciphertext of this format.
            CiphertextRejectedError: unknown ``key_id``, or it does not open.
            UnavailableError: the ledger was not read yet, or the key of this
                ``key_id`` could not be loaded yet, or the token did not answer.
        """
        with self._auditor.decision(caller, "kms.decrypt", provider=self._name) as decision:
            ledger = self._keeper.ledger
            generation = ledger.generations.get(ActivationId(key_id))
            if generation is None:
                raise self._unservable(ledger, ActivationId(key_id))
            decision.note(key_id=key_id, version=generation.version.id)
            parsed = envelope.parse(ciphertext)
            if parsed.version_id != generation.version.id:
                raise CiphertextRejectedError
            plaintext = self._cipher.decrypt(Face.KMS, generation.key, parsed, _aad(key_id))
            self._seeds.note(self._clock.now())
            return plaintext

    def _writing_generation(self) -> Generation:
        ledger, reported = self._keeper.ledger, self._reported
        if reported is not None and reported.activation.id in ledger.generations:
            return reported
        if ledger.active is None:
            raise ProviderUnboundError(self._why_unbound(ledger))
        # An Encrypt before the first Status fixes the activation as well.
        self._reported = ledger.active
        return ledger.active

    # --- the background ------------------------------------------------------

    def start_from(self, kept: NodeKeyring) -> None:
        """Serve from the node's keyring until the store has been read.

        Raises:
            IntegrityError: it is the keyring of another installation, provider or node.
        """
        self._keeper.start_from(kept)

    def refuse_keyring(self, error: KeyplaneError) -> None:
        """Remember, and record, that this node has a keyring that cannot be used."""
        self._keeper.keyring.fault = error.message
        self._auditor.record(
            Caller("provider", "keyplane"), "keyring.load", error.code, {"provider": self._name}
        )

    def refresh(self) -> None:
        """Do :meth:`refresh_ledger` and :meth:`prove` one after the other, as at the start."""
        self.refresh_ledger()
        self.prove()

    def refresh_ledger(self) -> None:
        """Read the ledger if it changed, load what is new, keep it, and tell the store.

        Called every half second; it never raises a domain error, but keeps the
        reason for :meth:`status` and goes on serving the last snapshot.
        """
        with self._refreshing:
            self._keeper.refresh()

    def prove(self) -> None:
        """Prove the write key, if that was not done a moment ago; never raises a domain error.

        Apart from :meth:`refresh_ledger`, so that a store that is slow makes no proof
        old, and a token that hangs keeps nobody from learning of a rotation.
        """
        self._probe.run()

    # --- words ---------------------------------------------------------------

    def report(self) -> KmsReport:
        """Return everything there is to tell, from memory like :meth:`status`."""
        keeper, now = self._keeper, self._clock.monotonic()
        provider = keeper.ledger.provider
        states = (activation.state for activation in provider.activations) if provider else ()
        return KmsReport(
            status=self.outlook(),
            token_fault=self._token_fault(),
            store_fault=self._store_fault(),
            keyring_fault=keeper.keyring.fault,
            probe_age_seconds=now - self._probe.proved_at,
            refreshed_seconds_ago=now - keeper.read_at,
            generations=Counter(states),
            faults=keeper.ledger.faults,
            from_keyring=keeper.from_keyring,
            outage=self._outage,
            seeds_readable=self._seeds_readable(),
            expires_at=keeper.ledger.expires_at,
            uses_ratio=keeper.uses_ratio(),
        )

    def warnings(self) -> list[str]:
        """Return what needs attention and stops nothing; it never shows in Status.

        A red healthz takes the API server out of service, and none of this must do that.
        """
        keeper, warnings = self._keeper, []
        provider, expires_at = keeper.ledger.provider, keeper.ledger.expires_at
        if provider and expires_at and expires_at <= self._clock.now():
            warnings.append(
                f"key {provider.key_id} expired at {expires_at:%Y-%m-%dT%H:%M:%SZ} and still "
                f"serves provider {self._name}; move its expiration date or bind another key"
            )
        store_fault = self._store_fault()
        if store_fault and keeper.ledger.generations:
            warnings.append(
                f"{store_fault}; what is known already is served on, and rotations "
                "wait for this node"
            )
        if keeper.keyring.fault:
            warnings.append(f"{keeper.keyring.fault}; this node could not start without the store")
        if keeper.uses_fault:
            warnings.append(
                "Encrypt is refused, because no uses are left that were counted before: "
                f"{keeper.uses_fault}"
            )
        readable = self._seeds_readable()
        if readable is not None:
            hours = readable.first_seconds / 3600
            warnings.append(
                f"API servers read on what they have read before: the first of it for {hours:.0f} "
                f"hours more, the last for {readable.last_seconds / 3600:.0f}"
            )
        return warnings

    def _seeds_readable(self) -> SeedsReadable | None:
        fault = self._token_fault()
        if not fault or fault == UNPROVED or not self._keeper.ledger.generations:
            return None
        return self._seeds.readable(self._clock.now())

    def _unservable(self, ledger: Ledger, key_id: ActivationId) -> KeyplaneError:
        """Tell a ``key_id`` that was never given out from one that cannot be served yet."""
        reason = self._store_fault() or self._keeper.record_fault
        if ledger.provider is None and reason:
            return UnavailableError(reason)
        if key_id in ledger.faults:
            return UnavailableError(ledger.faults[key_id])
        return CiphertextRejectedError()

    def _status_of(self, ledger: Ledger) -> KmsStatus:
        active, token_fault = ledger.active, self._token_fault()
        if active is None:
            known = "" if token_fault == UNPROVED else token_fault
            return KmsStatus(known or self._why_unbound(ledger), "")
        keeper = self._keeper
        faults = (token_fault, keeper.record_fault, *ledger.faults.values(), keeper.exhausted)
        healthz = next(filter(None, faults), HEALTHY)
        closed = token_fault and self._outage is OutagePolicy.FAIL_CLOSED
        return KmsStatus(healthz, "" if closed else active.activation.id)

    def _token_fault(self) -> str:
        age = self._clock.monotonic() - self._probe.proved_at
        return (
            self._token.condition().fault
            or self._probe.fault
            or (age > PROBE_MAX_AGE_SECONDS and _SILENT)
            or ""
        )

    def _store_fault(self) -> str:
        age = self._clock.monotonic() - self._keeper.read_at
        silent = f"the store has not answered for more than {STALE_SECONDS:.0f} seconds"
        return self._keeper.store_fault or (silent if age > STALE_SECONDS else "")

    def _why_unbound(self, ledger: Ledger) -> str:
        if ledger.provider is None:
            return (
                self._store_fault()
                or self._keeper.record_fault
                or (
                    f"provider {self._name} has no key; "
                    f"run: keyplane provider set {self._name} --key <key id>"
                )
            )
        return (
            self._keeper.record_fault
            or next(iter(ledger.faults.values()), "")
            or (
                f"provider {self._name} waits until every registered node has loaded its key; "
                f"see: keyplane provider show {self._name}"
            )
        )


_SILENT = (
    f"the token has not proved the key for more than {PROBE_MAX_AGE_SECONDS:.0f} seconds; "
    "check the HSM, then restart the provider"
)


def _aad(activation_id: str) -> tuple[bytes, ...]:
    return (activation_id.encode(),)
