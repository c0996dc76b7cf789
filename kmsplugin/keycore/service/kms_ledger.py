"""What a provider process can decrypt, read from the store or from the node's keyring.

Only :meth:`LedgerKeeper.refresh` reads the store, in the background. Everybody else sees
the last snapshot. The keyring is written before the node tells the others that it has
loaded an activation, so that this stays true after a restart without the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from keycore.domain.ids import ActivationId, KeyId
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key, KeyVersion
from keycore.domain.providers import Activation, Provider
from keycore.errors import (
    IntegrityError,
    KeyExhaustedError,
    KeyNotFoundError,
    KeyplaneError,
    StoreSetupError,
    StoreUnavailableError,
    TokenUnavailableError,
)
from keycore.ports import Changes, Clock, RootKeys, Store
from keycore.service.cipher import usable
from keycore.service.keyring import KeyringKeeper
from keycore.service.providers import ProviderService
from keycore.service.records import Records, Unit
from keycore.service.use_budget import UseBudget

HEARTBEAT_SECONDS = 10.0
"""How often a node tells the store that it is alive when nothing else changes."""

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
        held: encrypts instead of the active one, until the keyring knows that one.
    """

    provider: Provider | None = None
    generations: Mapping[ActivationId, Generation] = field(default_factory=dict)
    loaded: int = 0
    faults: Mapping[ActivationId, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    held: ActivationId | None = None

    @property
    def active(self) -> Generation | None:
        """The generation that encrypts."""
        active = self.provider.active if self.provider else None
        return self.generations.get(self.held or active.id) if active else None


class LedgerKeeper:
    """Keeps the snapshot, the node's row in the store, and the node's keyring.

    Attributes:
        keyring: the node's keyring.
        ledger: the last snapshot.
        store_fault: why the store could not be asked the last time; empty for no reason.
        record_fault: what was wrong with that which the store answered.
        exhausted: that the active version has reached its bound; empty before that.
        uses_fault: why there are no counted uses of it left in hand.
        from_keyring: whether the snapshot is the keyring's, the store not read yet.
        read_at: when the last refresh ended, monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        node: str,
        *,
        store: Store,
        records: Records,
        providers: ProviderService,
        root_keys: RootKeys,
        budget: UseBudget,
        keyring: KeyringKeeper,
        clock: Clock,
    ) -> None:
        """Keep provider ``name`` on ``node``; nothing is read before :meth:`refresh`."""
        self._name = name
        self._node = node
        self._store = store
        self._records = records
        self._providers = providers
        self._root_keys = root_keys
        self._budget = budget
        self._clock = clock
        self._read_until = Changes(0, frozenset())
        self._unread = True
        self._told = -1
        self._told_at = float("-inf")
        self.keyring = keyring
        self.ledger = Ledger()
        self.store_fault = "the store has not been read yet"
        self.record_fault = ""
        self.exhausted = ""
        self.uses_fault = ""
        self.from_keyring = False
        self.read_at = clock.monotonic()

    def start_from(self, kept: NodeKeyring) -> None:
        """Take the snapshot of this node's keyring until the store has been read.

        Raises:
            IntegrityError: it is the keyring of another installation, provider or node.
        """
        self.keyring.start_from(kept)
        self.ledger = self._load(kept.provider, self.keyring.key)
        self.from_keyring = True

    def refresh(self) -> None:
        """Read the ledger if it changed, load what is new, keep it, and tell the store.

        It never raises a domain error, but keeps the reason and goes on with the last
        snapshot.
        """
        if self.from_keyring and self.ledger.faults and self.ledger.provider:
            # What the token could not load at the start is there all the same.
            self.ledger = self._load(self.ledger.provider, self.keyring.key)
        self._publish(self.ledger)
        self.store_fault, self.record_fault = self._faults_of_refresh()
        self._prepare_uses(self.ledger, self.store_fault)
        self.read_at = self._clock.monotonic()

    def uses_ratio(self) -> float | None:
        """Return which share of its uses the active version has used up, if that is known."""
        active = self.ledger.active
        return self._budget.used_ratio(active.version.id) if active else None

    def _faults_of_refresh(self) -> tuple[str, str]:
        try:
            self._read()
            self.keyring.put_uses_aside()
            if self._report():
                # The report may have activated what was pending.
                self._read()
        except TokenUnavailableError as error:
            # The store is well; what is wrong with the token others tell.
            return "", error.message
        except (StoreUnavailableError, StoreSetupError) as error:
            return error.message, self.record_fault
        except KeyplaneError as error:
            return "", error.message
        return "", ""

    def _prepare_uses(self, ledger: Ledger, fault: str) -> None:
        """Have uses of the active version in hand, from the store or else from the keyring."""
        active, exhausted = ledger.active, ""
        if active is None:
            return
        try:
            if not fault:
                self._budget.prepare(active.version.id)
        except KeyExhaustedError as error:
            exhausted = error.message
        except KeyplaneError as error:
            fault = error.message
        if not self._budget.has(active.version.id):
            self._budget.grant(active.version.id, self.keyring.take_uses(active.version.id))
        self.exhausted = exhausted
        self.uses_fault = "" if self._budget.has(active.version.id) else fault

    def _read(self) -> None:
        changes = self._store.changes_since(self._read_until.sequence)
        # A load that failed for a passing reason is tried again at every call.
        unchanged = _state_of(changes) == _state_of(self._read_until)
        if unchanged and not self.ledger.faults and not self._unread:
            return
        # An older store that was put back may come to the same number by itself.
        self._unread = True
        with self._records.reading() as unit:
            provider = unit.find_provider(self._name)
            self._ensure_not_older(provider)
            ledger = Ledger()
            if provider:
                ledger = self._load(provider, partial(self._find_key, unit))
                ledger = replace(ledger, expires_at=_expiry(unit, provider))
        # An Encrypt under what shows from now on must not wait for the store.
        self._prepare_uses(ledger, "")
        self._publish(ledger)
        self.from_keyring = self._unread = False
        self._read_until = changes

    def _ensure_not_older(self, provider: Provider | None) -> None:
        # Somebody removed or replaced the row, and following it would give up what the
        # API server's objects need, or bring a former key_id back.
        known = self.ledger.provider
        if known is not None and not (provider and provider.continues(known)):
            raise IntegrityError("provider", self._name)

    def _find_key(self, unit: Unit, key_id: KeyId) -> Key:
        try:
            return unit.key(key_id)
        except (IntegrityError, KeyNotFoundError):
            kept = self.keyring.key(key_id)
            if kept is None:
                raise
            return kept

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

    def _publish(self, ledger: Ledger) -> None:
        """Write the keyring, then show a snapshot to everybody."""
        if ledger.provider is not None:
            self.keyring.keep(ledger.provider, self._needed_keys(ledger))
            ledger = replace(ledger, held=self._held(ledger.provider))
        former, self.ledger = self.ledger, ledger
        gone = former.generations.keys() - ledger.generations.keys()
        self._root_keys.forget(former.generations[gone_id].version.id for gone_id in gone)

    def _held(self, provider: Provider) -> ActivationId | None:
        """Return the activation at which Status stays because the keyring knows no newer one."""
        kept = self.keyring.kept.provider.active if self.keyring.kept else None
        if kept is None or kept == provider.active or kept.id not in {a.id for a in provider.live}:
            return None
        return kept.id

    def _needed_keys(self, ledger: Ledger) -> tuple[Key, ...]:
        """Return the keys of all live activations, each with the versions that these need.

        One that cannot be loaded now stays as it was kept.
        """
        needed: dict[KeyId, Key] = {}
        for activation in ledger.provider.live if ledger.provider else ():
            generation = ledger.generations.get(activation.id)
            key = generation.key if generation else self.keyring.key(activation.key_id)
            version = key.version(activation.version_id) if key else None
            if key is None or version is None:
                continue
            others = needed[key.id].versions if key.id in needed else ()
            versions = sorted({*others, version}, key=lambda version: version.number)
            needed[key.id] = replace(key, versions=tuple(versions))
        return tuple(sorted(needed.values(), key=lambda key: key.id))

    def _report(self) -> bool:
        """Tell the store how far this node is, if it is time to, and return whether it was."""
        provider = self.ledger.provider
        loaded = min(self.ledger.loaded, self.keyring.up_to(provider)) if provider else 0
        due = self._clock.monotonic() - self._told_at >= HEARTBEAT_SECONDS
        if due or loaded != self._told:
            self._providers.report(self._name, self._node, loaded)
            self._told = loaded
            self._told_at = self._clock.monotonic()
            return True
        return False


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


def _state_of(changes: Changes) -> tuple[str, int]:
    """Return what is another one after any write, and in another store."""
    return changes.epoch, changes.sequence


def _expiry(unit: Unit, provider: Provider) -> datetime | None:
    try:
        return unit.key(provider.key_id).expires_at
    except KeyplaneError:
        # The generation that cannot be loaded tells the fault.
        return None
