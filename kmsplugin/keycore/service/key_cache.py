"""Verified keys in memory, never older than the stated bound."""

from __future__ import annotations

import threading
from collections import OrderedDict

from keycore.domain.ids import InstanceId, KeyId, VersionId
from keycore.domain.keys import Key, VersionState
from keycore.errors import KeyNotFoundError
from keycore.ports import CHANGES_NAMED_MAX, Changes, Clock, RootKeys, Store
from keycore.service.records import Records

MAX_AGE_SECONDS = 0.5
"""How long cached keys are used before the change counter is read again. Changes
by other processes must be seen within one second; half of it leaves room for the
reading itself."""

IDLE_SECONDS = 2.0
"""How often a cache that nobody uses is compared with the store."""

CAPACITY = CHANGES_NAMED_MAX
"""Keys held at most; one takes about 3 kB."""


class KeyCache:
    """Gives verified keys without SQL on the hot path.

    One counter in the store tells which keys were written since the last look.
    These are dropped here, and the token's working copies of their versions with
    them, so a key deleted by another process stops working here within the bound.
    """

    def __init__(
        self,
        store: Store,
        records: Records,
        root_keys: RootKeys,
        clock: Clock,
        *,
        capacity: int = CAPACITY,
    ) -> None:
        """Cache up to ``capacity`` keys of ``store``."""
        self._store = store
        self._records = records
        self._root_keys = root_keys
        self._clock = clock
        self._capacity = capacity
        self._keys: OrderedDict[KeyId, Key] = OrderedDict()
        self._dropped: list[VersionId] = []
        self._drops = 0
        self._sequence = 0
        self._epoch = ""
        self._version = -1
        self._refreshed_at = float("-inf")
        self._in_use = False
        self._lock = threading.RLock()

    def key(self, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Return a key that was right at most :data:`MAX_AGE_SECONDS` ago.

        Where the store can tell that something was written, it is right now.

        Raises:
            KeyNotFoundError: there is none in that instance.
            IntegrityError: its record was changed.
            StoreUnavailableError: the bound has passed and the store does not answer.
        """
        if not self._is_current():
            self.refresh()
        self._in_use = True
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None:
                self._keys.move_to_end(key_id)
        if key is None:
            key = self._load(key_id)
        if within not in (None, key.instance_id):
            raise KeyNotFoundError(key_id)
        return key

    def peek(self, key_id: KeyId) -> Key | None:
        """Return a key if :meth:`key` would do so without the store, otherwise ``None``."""
        self._in_use = True
        if not self._is_current():
            return None
        with self._lock:
            return self._keys.get(key_id)

    def encrypting_versions(self) -> frozenset[VersionId]:
        """Return the active versions of all keys that are in the cache, from memory."""
        with self._lock:
            keys = tuple(self._keys.values())
        return frozenset(
            version.id
            for key in keys
            for version in key.versions
            if version.state is VersionState.ACTIVE
        )

    def keep_fresh(self) -> None:
        """Do :meth:`refresh` ahead of those who use the cache, if anybody does.

        Otherwise it is done every :data:`IDLE_SECONDS`, so that many idle processes do not
        keep a database busy, and still learn that it is away.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was dropped.
        """
        age = self._clock.monotonic() - self._refreshed_at
        if self._in_use or age > IDLE_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Drop every key that any process has written since the last call.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was dropped.
        """
        with self._lock:
            # A call that was under way when a key was dropped has brought its working
            # copy back; by now it has ended.
            self._root_keys.forget(self._dropped)
            self._dropped.clear()
            sequence = self._sequence
        # The age counts from before the read, so it is never understated. No lock is
        # held meanwhile: a slow store must not stop those who need no look at it.
        started, version = self._clock.monotonic(), self._store.version()
        changes = self._store.changes_since(sequence)
        with self._lock:
            if self._goes_on(sequence, changes):
                dropped = changes.key_ids
                self._sequence = max(self._sequence, changes.sequence)
            else:
                dropped = frozenset(self._keys)
                self._sequence = changes.sequence
                # What is being read at this moment counts no more either.
                self._drops += 1
            self._epoch = changes.epoch
            self._in_use = False
            for key_id in dropped:
                self.drop(key_id)
            if started >= self._refreshed_at:
                self._refreshed_at, self._version = started, version

    def _goes_on(self, sequence: int, changes: Changes) -> bool:
        """Tell whether the store is the one that was read before, with all that was in it then."""
        # A first look names no keys, and another one may have filled the cache meanwhile.
        return (
            bool(sequence)
            and changes.epoch == self._epoch
            and changes.sequence >= sequence
            and not changes.too_many
        )

    def drop(self, key_id: KeyId) -> None:
        """Forget one key here and its working copies in the token."""
        with self._lock:
            self._drops += 1
            key = self._keys.pop(key_id, None)
            if key is None:
                return
            version_ids = [version.id for version in key.versions]
            self._dropped += version_ids
        self._root_keys.forget(version_ids)

    def _is_current(self) -> bool:
        age = self._clock.monotonic() - self._refreshed_at
        return age <= MAX_AGE_SECONDS and self._store.version() == self._version

    def _load(self, key_id: KeyId) -> Key:
        with self._lock:
            before = self._drops
        with self._records.reading() as unit:
            key = unit.key(key_id)
        with self._lock:
            if self._drops == before:
                self._keys[key_id] = key
            else:
                # What was dropped meanwhile may have been this key, read before its
                # change. It serves this one call, and the next look forgets it.
                self._dropped += [version.id for version in key.versions]
            while len(self._keys) > self._capacity:
                # Nobody would tell the token later that a key unknown here was deleted.
                self.drop(next(iter(self._keys)))
        return key
