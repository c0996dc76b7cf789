"""What the core needs from the outside, as small protocols.

Adapters do not inherit from them; :mod:`keycore.bootstrap` assigns each adapter
to its port once, and one contract suite per port runs on the fake and on every
real adapter. All methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Generic, Protocol, TypeVar

from keycore.domain.audit_chain import Seal
from keycore.domain.envelope import Suite
from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.instances import Installation, Instance
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.domain.providers import Node, Provider

SignedT = TypeVar("SignedT", Key, Provider, Node, Instance, Installation)


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring how old something is."""


# --- token ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A root key version as the token needs it for use.

    Attributes:
        version_id: names the handle in the token's cache; one id, one key, for ever.
        blob: the key wrapped by the master key; its length differs between kinds of tokens.
    """

    version_id: VersionId
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenDescription:
    """What the token is and what it guarantees.

    Attributes:
        guards_unwrapping: ``True`` when the token itself refuses to unwrap a stored
            key readable. Where ``False``, whoever holds the PIN and the store can
            read root keys.
    """

    label: str
    serial: str
    manufacturer: str
    model: str
    guards_unwrapping: bool


@dataclass(frozen=True, slots=True)
class TokenCondition:
    """How the token is, as far as its last uses have shown.

    Attributes:
        fault: what is wrong and what to do about it; empty when all is well.
        stalled_seconds: how long the longest of the calls that run now has been inside
            the token; 0.0 when none is.
        lost: the token itself is gone, and only working copies of keys still serve.
    """

    fault: str = ""
    stalled_seconds: float = 0.0
    lost: bool = False


TokenObserver = Callable[[str, str, float], None]
"""Told of every use of the token: the operation (``generate``, ``import``, ``encrypt``,
``decrypt``, ``seal``, ``unseal``, ``sign``, ``verify`` or ``random``), ``ok`` or the
``code`` of the error, and the seconds that it took, waiting included."""


class RootKeys(Protocol):
    """Root keys that exist outside the token only wrapped, and are used only inside it."""

    @property
    def suite(self) -> Suite:
        """What ciphertexts of this token are made of; it never changes."""

    def generate_key(self) -> bytes:
        """Make a root key inside the token and return it wrapped.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def import_key(self, material: bytes) -> bytes:
        """Return 32 bytes of given key material wrapped.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        """Return the body of a ciphertext of :attr:`suite`; nonce or IV is fresh.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        """Return the plaintext of what :meth:`encrypt` returned.

        Raises:
            CiphertextRejectedError: it does not open under this key and AAD.
            TokenUnavailableError: the token did not answer.
        """

    def forget(self, version_ids: Iterable[VersionId]) -> None:
        """Destroy the token's working copies of these versions, if there are any."""


class Sealer(Protocol):
    """Encryption of payloads that may be handed out again: standard keys."""

    def random_bytes(self, count: int) -> bytes:
        """Return ``count`` bytes of the token's random source.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def seal(self, payload: bytes, aad: bytes) -> bytes:
        """Return ``payload`` encrypted and authenticated by the sealing key.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload that :meth:`seal` encrypted under the same ``aad``.

        Raises:
            CiphertextRejectedError: it does not open.
            TokenUnavailableError: the token did not answer.
        """


class RecordSigner(Protocol):
    """HMAC-SHA-256 by the record MAC key."""

    def sign(self, data: bytes) -> bytes:
        """Return the 32-byte MAC of ``data``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

    def is_signed(self, data: bytes, mac: bytes) -> bool:
        """Tell whether ``mac`` is the MAC of ``data``; the caller turns ``False`` into an error.

        Raises:
            TokenUnavailableError: the token did not answer.
        """


class Token(RootKeys, Sealer, RecordSigner, Protocol):
    """Everything that one PKCS#11 token does for the core."""

    def check(self) -> None:
        """Prove that token objects answer; cached session keys would outlive a lost token.

        Raises:
            TokenUnavailableError: they do not.
        """

    def condition(self) -> TokenCondition:
        """Return how the token is, from memory: no call to it, and no waiting."""

    def describe(self) -> TokenDescription:
        """Return what the token is; no call to the module."""

    def close(self) -> None:
        """Give back everything held in the token; the object is not used afterwards."""


# --- store ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed(Generic[SignedT]):
    """A record as it lies in the store.

    Attributes:
        record_format: which encoding of :mod:`keycore.domain.records` was signed.
        mac: the record MAC, 32 bytes.
    """

    record: SignedT
    record_format: int
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys a list or count takes.

    Attributes:
        instance_id: ``None`` for all instances.
        deleted: ``True`` adds tombstones; without a meaning when ``states`` is given.
        states: the states, as callers see them, to take; ``None`` for all.
        kind: ``None`` for both.
    """

    instance_id: InstanceId | None = None
    deleted: bool = False
    states: frozenset[KeyState] | None = None
    kind: KeyKind | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Remembers which key a repeatable create made.

    Attributes:
        id: SHA-256 of instance, caller and idempotency key, 32 bytes.
        mac: by the record MAC key over id, key id and all that was asked for, 32
            bytes; so the row tells nothing about imported material.
    """

    id: bytes
    key_id: KeyId
    mac: bytes
    created_at: datetime


RECEIPT_AGE = timedelta(hours=24)
"""How long a create can be repeated under one idempotency key."""


class KeyRows(Protocol):
    """Keys with their versions. Inside ``writing()``, a read locks the row it returns."""

    def get(self, key_id: KeyId) -> Signed[Key] | None:
        """Return the key, tombstones included, or ``None``."""

    def owned_by(self, owner: str) -> Signed[Key] | None:
        """Return the key that the resource owns, or ``None``."""

    def aliased(self, instance_id: InstanceId, alias: str) -> KeyId | None:
        """Return which key has the alias, or ``None``; the key's record proves it."""

    def page(
        self, wanted: KeyFilter, now: datetime, *, offset: int, limit: int
    ) -> Sequence[Signed[Key]]:
        """Return ``limit`` keys from ``offset`` on, sorted by id; ``now`` tells expired ones."""

    def count(self, wanted: KeyFilter, now: datetime) -> int:
        """Return how many keys :meth:`page` could return."""

    def save(self, key: Signed[Key]) -> None:
        """Insert or replace the key and its versions; destroyed material is overwritten.

        Raises:
            AlreadyExistsError: another key has the same owner, or the same alias in
                the instance.
        """

    def receipt(self, receipt_id: bytes) -> Receipt | None:
        """Return the receipt or ``None``."""

    def save_receipt(self, receipt: Receipt) -> None:
        """Insert the receipt, and remove those that have passed their age."""


class ProviderRows(Protocol):
    """Providers with their ledgers, and the nodes registered for them."""

    def get(self, name: str) -> Signed[Provider] | None:
        """Return the provider or ``None``."""

    def all(self) -> Sequence[Signed[Provider]]:
        """Return every provider, sorted by name."""

    def save(self, provider: Signed[Provider]) -> None:
        """Insert or replace the provider and its ledger."""

    def nodes(self, provider: str | None = None) -> Sequence[Signed[Node]]:
        """Return the registered nodes of one or of every provider, sorted by name."""

    def save_node(self, node: Signed[Node]) -> None:
        """Insert or replace the node."""

    def remove_node(self, provider: str, name: str) -> None:
        """Remove the node if it is there."""


class InstanceRows(Protocol):
    """Instances, and the one installation row."""

    def get(self, instance_id: InstanceId) -> Signed[Instance] | None:
        """Return the instance or ``None``."""

    def bound_to(self, namespace: str) -> Signed[Instance] | None:
        """Return the instance that an administrator bound to the namespace, or ``None``."""

    def all(self) -> Sequence[Signed[Instance]]:
        """Return every instance, sorted by id."""

    def save(self, instance: Signed[Instance]) -> None:
        """Insert or replace the instance.

        Raises:
            AlreadyExistsError: another instance is bound to the same namespace.
        """

    def installation(self) -> Signed[Installation] | None:
        """Return the installation row, or ``None`` before ``init`` has finished."""

    def save_installation(self, installation: Signed[Installation]) -> None:
        """Insert the installation row."""


class Transaction(Protocol):
    """One unit of work: all of it happens, or nothing."""

    @property
    def keys(self) -> KeyRows:
        """The keys."""

    @property
    def providers(self) -> ProviderRows:
        """The providers and nodes."""

    @property
    def instances(self) -> InstanceRows:
        """The instances and the installation."""


CHANGES_NAMED_MAX: Final = 10_000
"""Keys that one look at the store names; nobody holds more of them in memory."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written after a point in time.

    Attributes:
        sequence: the newest write's number; 0 in an untouched store.
        key_ids: keys written since the number that was asked about.
        epoch: another text than before means that the store may have lost writes, or is
            another one: a standby took over, or a backup was restored. Whatever was
            read before counts no more.
        too_many: more keys were written than :data:`CHANGES_NAMED_MAX`, so none is named;
            likewise.
    """

    sequence: int
    key_ids: frozenset[KeyId]
    epoch: str = ""
    too_many: bool = False


@dataclass(frozen=True, slots=True)
class AuditHead:
    """How far a chain of audit lines has come, kept apart from its files.

    Attributes:
        chain: the chain's UUID.
        node: the host that writes it.
        name: face and slot, as in its files' names, such as ``rest.0``.
        line: number of the newest line that was sealed.
        digest: SHA-256 of that line, 32 bytes.
        mac: by the record MAC key over all of that, 32 bytes.
    """

    chain: str
    node: str
    name: str
    line: int
    digest: bytes
    at: datetime
    mac: bytes = field(repr=False)

    @property
    def seal(self) -> Seal:
        """What the HSM has signed, without whose it is."""
        return Seal(self.line, self.digest, self.at, self.mac)


class Store(Protocol):
    """Where records live. Every method may raise ``StoreUnavailableError``."""

    def reading(self) -> AbstractContextManager[Transaction]:
        """Open a consistent view for reading."""

    def writing(self) -> AbstractContextManager[Transaction]:
        """Open the only writer; commit on leaving, roll back on an exception.

        When the block has been left without an exception, its writes survive a
        crash of the process and of the machine. When it was left by a
        ``StoreUnconfirmedError``, the answer to the commit was lost, and they may have
        been made as well.
        """

    def version(self) -> int:
        """Return a number that is another one after any write, by whomever.

        Cheap enough for every request, and never raises: a store that cannot tell
        returns the number that it returned last. What was written, and whether the
        store is there at all, :meth:`changes_since` tells.
        """

    def changes_since(self, sequence: int) -> Changes:
        """Return what other processes and this one wrote after ``sequence``.

        0 stands for nothing that was read before: no key is named then, since whoever
        asks holds none, and a store may have a million.
        """

    def reserve_uses(
        self, version_ids: Sequence[VersionId], count: int, limit: int
    ) -> dict[VersionId, int]:
        """Reserve up to ``count`` encryptions of each version, durably, in one write.

        Returns:
            What was granted to each. The sum of everything ever granted for a version
            never exceeds ``limit``; 0 means that it is used up, or unknown. Uses lost
            in a crash are never given back.
        """

    def give_back_uses(self, unused: Mapping[VersionId, int]) -> None:
        """Take back encryptions that were reserved and that nobody will make, in one write.

        Args:
            unused: for each version how many, above 0; never more than the caller holds. A
                version that has had fewer stays as it is: the store has lost writes.
        """

    def count_start(self, limit: int) -> bool:
        """Count the start of a process, durably, unless ``limit`` were counted; tell whether."""

    def uses(self, version_ids: Iterable[VersionId]) -> Mapping[VersionId, int]:
        """Return how many uses were granted for each version."""

    def save_audit_head(self, head: AuditHead) -> None:
        """Insert or replace the head of its chain; nothing that others must read changes."""

    def audit_heads(self) -> Sequence[AuditHead]:
        """Return the head of every chain, sorted by chain."""

    def scrub(self) -> None:
        """Make sure that no file of the store holds overwritten bytes any more.

        An embedded store does. A database server keeps old rows, logs and replicas as
        it likes, and there this does nothing.
        """

    def close(self) -> None:
        """Give back connections."""


class Keyring(Protocol):
    """Where a node keeps what it needs to serve without the store."""

    def load(self) -> NodeKeyring | None:
        """Return what was saved last, or ``None`` when nothing was.

        Raises:
            IntegrityError: it is not what was saved, or another token signed it.
            StoreUnavailableError: it cannot be read.
            TokenUnavailableError: the token did not answer.
        """

    def update(self, change: Callable[[NodeKeyring | None], NodeKeyring]) -> NodeKeyring:
        """Replace what was saved last; when it returns, a crash cannot undo it.

        No other process updates it meanwhile.

        Args:
            change: makes the new keyring from the one that is there; ``None`` when there
                is none, or none that can be used. What it raises passes.

        Returns:
            What ``change`` has made.

        Raises:
            StoreUnavailableError: it cannot be written; the old one stays.
            TokenUnavailableError: the token did not answer.
        """


# --- audit ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One decision, allowed or refused.

    Attributes:
        operation: dotted verb such as ``key.rotate``.
        outcome: ``ok``, or the ``code`` of the error that the caller got.
        actor: who asked, as the face knows it.
        correlation_id: the caller's own id of the request, empty for none.
        details: further safe facts; never material, plaintext, AAD or credentials.
    """

    time: datetime
    operation: str
    outcome: str
    face: str
    actor: str
    correlation_id: str
    details: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class AuditCondition:
    """How the audit log of this process is.

    Attributes:
        lines: written since the start.
        lost: lines that could not be written; the process's log has them.
        unsealed: lines behind the newest checkpoint, which no HSM vouches for yet.
        fault: why no line can be written now; empty when it can.
        broken: why the chain does not go on where its newest checkpoint says, as this
            process has found; empty when it does.
    """

    lines: int = 0
    lost: int = 0
    unsealed: int = 0
    fault: str = ""
    broken: str = ""


class AuditLog(Protocol):
    """Append-only record of decisions."""

    def require_room(self) -> None:
        """Make sure that the line of an operation that begins now can be written.

        Cheap enough for every request. A log of a face that must serve on in any case,
        as the KMS provider must, never refuses.

        Raises:
            AuditUnavailableError: it cannot; the operation must not act.
        """

    def write(self, event: AuditEvent) -> None:
        """Append one event; when it returns, the operating system has the line.

        It never raises: what cannot be written is counted, and goes to the process's log.
        """

    def condition(self) -> AuditCondition:
        """Return how the log is, from memory."""
