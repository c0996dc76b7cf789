"""Counts the encryptions of each key version, and never too few.

NIST SP 800-38D, 8.3 bounds a key with random nonces to 2^32 encryptions. The count must
survive crashes, and a durable write for each encryption would cost a thousand times the
encryption. So uses are reserved in the store in blocks, before the first of them.

That still makes the first use of each key in each process wait for a disk. A process
that serves many keys therefore opens a credit: it has its start counted in the store
once, and may then use each version a little before it reserves a block, which happens
for many versions in one write. What such processes can lose in a crash is bounded by the
number of starts, and that much is kept free below 2^32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from keycore.domain.envelope import USES_MAX
from keycore.domain.ids import VersionId
from keycore.errors import KeyExhaustedError
from keycore.ports import Store

RESERVED_AHEAD = 2**16
"""Uses taken from the store at a time: one small write per 65,536 wraps, and at
most that many lost in a crash, which is nothing beside 2^32."""

CREDIT_USES = 2**10
"""Uses of one version before its first block, in a process that has opened a credit."""

STARTS_MAX = 2**20
"""Starts that can open a credit; a start an hour would take more than a century."""

RESERVED_MAX = USES_MAX - CREDIT_USES * STARTS_MAX
"""Uses of a version that can be reserved; with every credit lost the sum is 2^32."""


class UseBudget:
    """Hands out encryptions of key versions. May be called from several threads."""

    def __init__(
        self,
        store: Store,
        *,
        block: int = RESERVED_AHEAD,
        limit: int = RESERVED_MAX,
        warn: Callable[[VersionId, int], None] = lambda _version_id, _used: None,
    ) -> None:
        """Reserve ``block`` uses at a time, up to ``limit`` for each version.

        Args:
            store: where the count is kept.
            block: uses taken at a time; what is left of a block is lost when the
                process ends, so a process that seldom encrypts takes small ones.
            limit: uses of one version.
            warn: called once with version and count when half of them are gone.
        """
        self._store = store
        self._block = block
        self._limit = limit
        self._warn = warn
        self._credit = 0
        self._left: dict[VersionId, int] = {}
        self._on_credit: set[VersionId] = set()
        self._lock = threading.Lock()

    def open_credit(self) -> None:
        """Let the first uses of each version go ahead of :meth:`settle`.

        Call it once, before the first use; whoever calls it calls ``settle`` often.

        Raises:
            StoreUnavailableError: the start could not be counted.
        """
        self._credit = CREDIT_USES if self._store.count_start(STARTS_MAX) else 0

    def has(self, version_id: VersionId) -> bool:
        """Tell whether the next :meth:`take` would have no need of the store."""
        return self._left.get(version_id, self._credit) > 0

    def take(self, version_id: VersionId) -> None:
        """Use one encryption.

        Raises:
            KeyExhaustedError: the version has reached the bound.
            StoreUnavailableError: a new block was needed and the store did not answer.
        """
        with self._lock:
            left = self._left.get(version_id)
            if left is None and self._credit:
                left = self._credit
                self._on_credit.add(version_id)
            if not left:
                left = self._reserve(version_id)
            self._left[version_id] = left - 1

    def prepare(self, version_id: VersionId) -> None:
        """Keep at least half a block in hand, so that a later :meth:`take` needs no store.

        Raises:
            KeyExhaustedError: the version has reached the bound.
            StoreUnavailableError: the store did not answer.
        """
        with self._lock:
            left = self._left.get(version_id, 0)
            if left <= self._block // 2:
                self._left[version_id] = left + self._reserve(version_id)

    def settle(self) -> None:
        """Reserve a block for every version that is used on credit, in one write.

        A version that has reached the bound is refused from then on.

        Raises:
            StoreUnavailableError: the store did not answer; the credit goes on.
        """
        with self._lock:
            waiting = sorted(self._on_credit)
        if not waiting:
            return
        # Not under the lock: nobody who still has uses shall wait for the disk.
        granted = self._store.reserve_uses(waiting, self._block, self._limit)
        with self._lock:
            for version_id in waiting:
                count = granted[version_id]
                self._left[version_id] = self._left[version_id] + count if count else 0
            self._on_credit.difference_update(waiting)
        self._warn_of(waiting, granted)

    def _reserve(self, version_id: VersionId) -> int:
        granted = self._store.reserve_uses([version_id], self._block, self._limit)
        self._on_credit.discard(version_id)
        if not granted[version_id]:
            raise KeyExhaustedError(
                f"key version {version_id} has made {self._limit} ciphertexts, its bound",
                hint="rotate the key; what it has encrypted stays readable",
            )
        self._warn_of([version_id], granted)
        return granted[version_id]

    def _warn_of(self, version_ids: Sequence[VersionId], granted: dict[VersionId, int]) -> None:
        for version_id, used in self._store.uses(version_ids).items():
            if used - granted[version_id] < self._limit // 2 <= used:
                self._warn(version_id, used)
