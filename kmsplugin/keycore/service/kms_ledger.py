"""What a provider process can decrypt, read from the store or from the node's keyring.

Only :meth:`LedgerKeeper.refresh` reads the store, in the background. Everybody else sees
the last snapshot. The keyring is written before the node tells the others that it has
loaded an activation, so that this stays true after a restart without the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from keycore.domain.ids import ActivationId, KeyId, VersionId
from keycore.domain.instances import Installation
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key, KeyVersion
from keycore.domain.providers import Activation, Provider
from keycore.errors import (
    IntegrityError,
    KeyExhaustedError,
    KeyplaneError,
    StoreSetupError,
    StoreUnavailableError,
    TokenUnavailableError,
)
from keycore.ports import Clock, Keyring, RootKeys, Store
from keycore.service.cipher import usable
from keycore.service.providers import ProviderService
from keycore.service.records import Records, Unit
from keycore.service.use_budget import RESERVED_MAX, UseBudget

HEARTBEAT_SECONDS = 10.0
"""How often a node tells the store that it is alive when nothing else changes."""

KMS_USES_AHEAD = 256
"""Uses that one provider process takes from the store at a time. The API server asks
for an encryption at its start and at each new key_id, so this lasts for months, and a
provider in a restart loop of one second takes half a year to use a version up."""

KMS_USES_ASIDE = 64 * KMS_USES_AHEAD
"""Uses that the keyring holds: so many times can a provider start without the store."""

_PROBE_TEXT = b"keyplane/probe/1"

_KeyFinder = Callable[[KeyId], Key | None]


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
        expires_at: when the provider's key expires, which stops nothing.
    """

    provider: Provider | None = None
    generations: Mapping[ActivationId, Generation] = field(default_factory=dict)
    loaded: int = 0
    faults: Mapping[ActivationId, str] = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def active(self) -> Generation | None:
        """The generation that encrypts."""
        active = self.provider.active if self.provider else None
        return self.generations.get(active.id) if active else None


class LedgerKeeper:
    """Keeps the snapshot, the node's row in the store, and the node's keyring.

    Attributes:
        ledger: the last snapshot.
        store_fault: why the store could not be asked the last time; empty for no reason.
        record_fault: what was wrong with that which the store answered.
        keyring_fault: why the keyring could not be read or written.
        from_keyring: whether the snapshot is the keyring's, the store not read yet.
        read_at: when the last refresh ended, monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        node: str,
        *,
        installation: Installation,
        store: Store,
        records: Records,
        providers: ProviderService,
        root_keys: RootKeys,
        budget: UseBudget,
        keyring: Keyring | None,
        clock: Clock,
    ) -> None:
        """Keep provider ``name`` on ``node``; nothing is read before :meth:`refresh`."""
        self._name = name
        self._node = node
        self._installation = installation
        self._store = store
        self._records = records
        self._providers = providers
        self._root_keys = root_keys
        self._budget = budget
        self._keyring = keyring
        self._clock = clock
        self._sequence = 0
        self._told = -1
        self._told_at = float("-inf")
        self._kept: NodeKeyring | None = None
        self._keeping = threading.Lock()
        self.ledger = Ledger()
        self.store_fault = "the store has not been read yet"
        self.record_fault = ""
        self.keyring_fault = ""
        self.from_keyring = False
        self.read_at = clock.monotonic()

    def start_from(self, kept: NodeKeyring) -> None:
        """Take the snapshot of this node's keyring until the store has been read.

        Raises:
            IntegrityError: it is the keyring of another provider or node.
        """
        if (kept.provider.name, kept.node) != (self._name, self._node):
            raise IntegrityError("keyring", f"{kept.provider.name}.{kept.node}")
        keys = {key.id: key for key in kept.keys}
        self._kept = kept
        self.ledger = self._load(kept.provider, keys.get)
        self.from_keyring = True

    def refresh(self) -> None:
        """Read the ledger if it changed, load what is new, keep it, and tell the store.

        It never raises a domain error, but keeps the reason and goes on with the last
        snapshot.
        """
        self.store_fault, self.record_fault = self._faults_of_refresh()
        self.read_at = self._clock.monotonic()

    def take_spare_uses(self, version_id: VersionId) -> bool:
        """Take a block of the uses that the keyring holds for a start without the store.

        Returns:
            Whether there was one. A crash in between loses it, and counts none twice.
        """
        if self._keyring is None:
            return False
        spare = 0

        def without(current: NodeKeyring | None) -> NodeKeyring:
            nonlocal spare
            uses = dict(current.uses) if current else {}
            spare = min(uses.get(version_id, 0), KMS_USES_AHEAD)
            if current is None or not spare:
                raise KeyExhaustedError("the keyring holds no uses")
            uses[version_id] -= spare
            return replace(current, uses=_listed(uses), saved_at=self._clock.now())

        with self._keeping:
            try:
                self._kept = self._keyring.update(without)
            except KeyExhaustedError:
                return False
            except KeyplaneError as error:
                self.keyring_fault = error.message
                return False
        self._budget.grant(version_id, spare)
        return True

    def _faults_of_refresh(self) -> tuple[str, str]:
        try:
            self._read()
            self._keep()
            self._report()
            # The report may have activated what was pending.
            self._read()
            self._keep()
        except TokenUnavailableError as error:
            # The store is well; what is wrong with the token others tell.
            return "", error.message
        except (StoreUnavailableError, StoreSetupError) as error:
            return error.message, self.record_fault
        except KeyplaneError as error:
            return "", error.message
        return "", ""

    def _read(self) -> None:
        sequence = self._store.changes_since(self._sequence).sequence
        # A load that failed for a passing reason is tried again at every call.
        if sequence == self._sequence and not self.ledger.faults:
            return
        with self._records.reading() as unit:
            provider = unit.find_provider(self._name)
            self._ensure_not_shrunk(provider)
            ledger = self._load(provider, unit.key) if provider else Ledger()
            if provider:
                ledger = replace(ledger, expires_at=_expiry(unit, provider))
        gone = self.ledger.generations.keys() - ledger.generations.keys()
        self._root_keys.forget(self.ledger.generations[gone_id].version.id for gone_id in gone)
        self.ledger = ledger
        self.from_keyring = False
        self._sequence = sequence

    def _ensure_not_shrunk(self, provider: Provider | None) -> None:
        # Nothing here ever shortens a ledger; somebody removed or replaced the row, and
        # following it would give up what the API server's objects need.
        known = len(self.ledger.provider.activations) if self.ledger.provider else 0
        if known > (len(provider.activations) if provider else 0):
            raise IntegrityError("provider", self._name)

    def _load(self, provider: Provider, find: _KeyFinder) -> Ledger:
        generations: dict[ActivationId, Generation] = {}
        faults: dict[ActivationId, str] = {}
        loaded = 0
        for activation in provider.activations:
            if activation in provider.live:
                try:
                    generations[activation.id] = self._generation(find, activation)
                except KeyplaneError as error:
                    faults[activation.id] = error.message
            if not faults:
                loaded = activation.sequence
        return Ledger(provider, generations, loaded, faults)

    def _generation(self, find: _KeyFinder, activation: Activation) -> Generation:
        """Return what an activation stands for, proved to work in this process."""
        known = self.ledger.generations.get(activation.id)
        if known is not None:
            return Generation(activation, known.key, known.version)
        key = find(activation.key_id)
        version = key.version(activation.version_id) if key else None
        if key is None or version is None:
            raise IntegrityError("provider", self._name)
        prove(self._root_keys, key, version)
        return Generation(activation, key, version)

    def _report(self) -> None:
        loaded = min(self.ledger.loaded, self._kept_up_to())
        due = self._clock.monotonic() - self._told_at >= HEARTBEAT_SECONDS
        if due or loaded != self._told:
            self._providers.report(self._name, self._node, loaded)
            self._told = loaded
            self._told_at = self._clock.monotonic()

    # --- the keyring ---------------------------------------------------------

    def _kept_up_to(self) -> int:
        """Return which activations the keyring holds, all of them where there is none."""
        provider = self.ledger.provider
        if self._keyring is None or provider is None:
            return self.ledger.loaded
        kept = {a.id for a in self._kept.provider.live} if self._kept else set[ActivationId]()
        up_to = 0
        for activation in provider.activations:
            if activation in provider.live and activation.id not in kept:
                break
            up_to = activation.sequence
        return up_to

    def _keep(self) -> None:
        """Write the keyring if something in it has changed; a fault is kept, not raised."""
        provider = self.ledger.provider
        if self._keyring is None or provider is None:
            return
        with self._keeping:
            try:
                wanted = self._wanted(provider)
                if self._kept is None or wanted != replace(self._kept, saved_at=wanted.saved_at):
                    self._kept = self._keyring.update(partial(_updated, wanted, self._kept))
            except StoreUnavailableError as error:
                self.keyring_fault = error.message
            else:
                self.keyring_fault = ""

    def _wanted(self, provider: Provider) -> NodeKeyring:
        return NodeKeyring(
            self._installation,
            self._node,
            provider,
            _needed_keys(self.ledger),
            self._spare_uses(provider),
            self._clock.now(),
        )

    def _spare_uses(self, provider: Provider) -> tuple[tuple[VersionId, int], ...]:
        """Return the uses that the keyring shall hold, reserved where too few are left."""
        spare = dict(self._kept.uses) if self._kept else {}
        writing = {a.version_id for a in (provider.active, provider.pending) if a}
        low = sorted(v for v in writing if spare.get(v, 0) <= KMS_USES_ASIDE // 2)
        if low:
            granted = self._store.reserve_uses(low, KMS_USES_ASIDE // 2, RESERVED_MAX)
            spare |= {v: spare.get(v, 0) + count for v, count in granted.items()}
        return _listed({v: spare.get(v, 0) for v in writing})


def _updated(
    wanted: NodeKeyring, known: NodeKeyring | None, current: NodeKeyring | None
) -> NodeKeyring:
    """Return ``wanted`` without the uses that another process of this node has taken.

    During a takeover two processes have one keyring. What is there now counts, and what
    this process has reserved comes on top.
    """
    there, before = dict(current.uses if current else ()), dict(known.uses if known else ())
    uses = {v: there.get(v, 0) + count - before.get(v, 0) for v, count in wanted.uses}
    return replace(wanted, uses=_listed(uses))


def _listed(uses: Mapping[VersionId, int]) -> tuple[tuple[VersionId, int], ...]:
    return tuple(sorted((version, count) for version, count in uses.items() if count > 0))


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


def _needed_keys(ledger: Ledger) -> tuple[Key, ...]:
    """Return the keys of all generations, each with the versions that these need only."""
    needed: dict[str, Key] = {}
    for generation in ledger.generations.values():
        known = needed.get(generation.key.id)
        others = known.versions if known else ()
        versions = sorted({*others, generation.version}, key=lambda version: version.number)
        needed[generation.key.id] = replace(generation.key, versions=tuple(versions))
    return tuple(sorted(needed.values(), key=lambda key: key.id))


def _expiry(unit: Unit, provider: Provider) -> datetime | None:
    try:
        return unit.key(provider.key_id).expires_at
    except KeyplaneError:
        # The generation that cannot be loaded tells the fault.
        return None
