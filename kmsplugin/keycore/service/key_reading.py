"""Looking at keys: get, open, find, list, count; nothing here changes one."""

from __future__ import annotations

from dataclasses import dataclass, field

from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.errors import InvalidRequestError, KeyDeletedError, KeyInUseError
from keycore.ports import Clock, KeyFilter, Store
from keycore.service.caller import Auditor, Caller
from keycore.service.creation import KeyMaker
from keycore.service.records import Records, Unit

PAGE_MAX = 5000
"""Keys in one page at most."""

OFFSET_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class OpenedKey:
    """A key with what may be handed out of it.

    Attributes:
        payload: material of a live standard key, 16..64 bytes; ``None`` for a root
            key and for a tombstone.
    """

    key: Key
    payload: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        keys: sorted by id.
        total: how many keys all pages hold.
    """

    keys: list[Key]
    total: int


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What deleting a key would lose.

    Attributes:
        uses: ciphertexts that its versions may have made; counted in blocks
            reserved ahead, so never too low.
    """

    key: Key
    uses: int


class KeyReader:
    """Reading use cases. ``within`` is the caller's instance, ``None`` an administrator's view."""

    def __init__(
        self,
        records: Records,
        store: Store,
        *,
        maker: KeyMaker,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        """Read ``records``; ``maker`` opens the payload of standard keys."""
        self._records = records
        self._store = store
        self._maker = maker
        self._auditor = auditor
        self._clock = clock

    def get(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Return a key as the store has it now; a deleted one is its tombstone.

        Raises:
            KeyNotFoundError: no such key in the instance.
            IntegrityError: its record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.get", key=key_id, instance=within),
            self._records.reading() as unit,
        ):
            return unit.key(key_id, within=within)

    def open(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> OpenedKey:
        """Return a key, and with it the material of a live standard key.

        Raises:
            KeyNotFoundError: no such key in the instance.
            IntegrityError: its record was changed.
            UnavailableError: token or store did not answer.
        """
        with self._auditor.decision(caller, "key.get", key=key_id, instance=within) as decision:
            with self._records.reading() as unit:
                opened = self._opened(unit.key(key_id, within=within))
            decision.note(payload=None if opened.payload is None else "given")
            return opened

    def resolve(self, alias: str, *, within: InstanceId) -> KeyId:
        """Return the id of the key that has ``alias``; nothing is decided, so nothing is audited.

        Raises:
            KeyNotFoundError: no key of the instance has it.
            IntegrityError: the index of aliases or the key's record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return unit.aliased_key(alias, within=within).id

    def owned_by(self, owner: str) -> Key | None:
        """Return the key that a resource manages, or ``None``.

        Raises:
            IntegrityError: its record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return unit.key_owned_by(owner)

    def page(self, caller: Caller, wanted: KeyFilter, *, offset: int = 0, limit: int = 200) -> Page:
        """Return up to ``limit`` keys (1..5000) from ``offset`` (0..2^31) on, sorted by id.

        Raises:
            InvalidRequestError: offset or limit out of bounds.
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._auditor.decision(caller, "key.list", instance=wanted.instance_id):
            if not 0 <= offset <= OFFSET_MAX:
                raise InvalidRequestError(
                    f"offset must be an integer between 0 and {OFFSET_MAX}", field="offset"
                )
            if not 1 <= limit <= PAGE_MAX:
                raise InvalidRequestError(
                    f"limit must be an integer between 1 and {PAGE_MAX}", field="limit"
                )
            now = self._clock.now()
            with self._records.reading() as unit:
                keys = unit.keys(wanted, now, offset=offset, limit=limit)
                return Page(keys, unit.count_keys(wanted, now))

    def count(self, caller: Caller, wanted: KeyFilter) -> int:
        """Return the number of keys.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.count", instance=wanted.instance_id),
            self._records.reading() as unit,
        ):
            return unit.count_keys(wanted, self._clock.now())

    def payload(self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None) -> bytes:
        """Return the material of a standard key, 32..64 bytes, of a suspended one too.

        Raises:
            InvalidRequestError: the key is a root key, whose material never leaves.
            KeyNotFoundError: no such key in the instance.
            KeyDeletedError: it was deleted.
            IntegrityError: its record was changed.
            UnavailableError: token or store did not answer.
        """
        with (
            self._auditor.decision(caller, "key.payload", key=key_id, instance=within),
            self._records.reading() as unit,
        ):
            key = ensure_live(unit.key(key_id, within=within))
            if key.kind is not KeyKind.STANDARD:
                raise InvalidRequestError(f"key {key_id} is a root key and is never handed out")
            return self._maker.payload(key)

    def deletion_preview(
        self, caller: Caller, key_id: KeyId, *, within: InstanceId | None = None
    ) -> DeletionPreview:
        """Return what :meth:`delete` would lose; raises exactly what it would."""
        with self._auditor.decision(
            caller, "key.delete_preview", key=key_id, instance=within
        ) as decision:
            with self._records.reading() as unit:
                key = ensure_live(unit.key(key_id, within=within))
                ensure_unused(unit, key)
            uses = sum(self._store.uses(version.id for version in key.versions).values())
            decision.note(versions=len(key.versions), uses=uses)
            return DeletionPreview(key, uses)

    def _opened(self, key: Key) -> OpenedKey:
        handed_out = key.kind is KeyKind.STANDARD and key.state is not KeyState.DESTROYED
        return OpenedKey(key, self._maker.payload(key) if handed_out else None)


def ensure_live(key: Key) -> Key:
    """Return ``key`` unless it is a tombstone.

    Raises:
        KeyDeletedError: it is.
    """
    if key.state is KeyState.DESTROYED:
        raise KeyDeletedError(key.id)
    return key


def ensure_unused(unit: Unit, key: Key) -> None:
    """Check that no KMS provider needs ``key``.

    Raises:
        KeyInUseError: one does, to open what lies in etcd.
    """
    users = [provider.name for provider in unit.providers() if provider.needs(key.id)]
    if users:
        raise KeyInUseError(
            f"key {key.id} is needed by KMS provider {', '.join(users)}",
            hint="bind the provider to another key, rewrite every object in etcd, then "
            f"keyplane provider release {users[0]} --key {key.id}",
        )
