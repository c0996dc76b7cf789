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
from collections.abc import Callable
from itertools import islice

from keycore.domain.envelope import USES_MAX
from keycore.domain.ids import VersionId
from keycore.errors import KeyExhaustedError, StoreUnavailableError, StoreUnconfirmedError
from keycore.ports import Store

RESERVED_AHEAD = 2**16
"""Uses taken from the store at a time: one small write per 65,536 wraps, and at
most that many lost in a crash, which is nothing beside 2^32."""

CREDIT_USES = 2**10
"""Uses of one version before its first block, in a process that has opened a credit."""

STARTS_MAX = 2**20
"""Starts that can open a credit; a start an hour would take more than a century."""

VERSIONS_MAX = 20_000
"""Versions whose uses a process keeps in hand for long; each takes some hundred bytes."""

_FORGOTTEN_AT_ONCE = 2_000

NOTED_RATIO_MIN = 0.001
"""The share of its uses from which on a version's count is kept in memory; a process may use a
million versions."""

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
        self._low: set[VersionId] = set()
        self._used: dict[VersionId, int] = {}
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
        while not self._took(version_id):
            self._reserve(version_id)

    def grant(self, version_id: VersionId, count: int) -> None:
        """Add uses that were reserved in the store already, by an earlier process."""
        with self._lock:
            self._left[version_id] = self._left.get(version_id, 0) + count

    def prepare(self, version_id: VersionId) -> None:
        """Keep at least half a block in hand, so that a later :meth:`take` needs no store.

        Raises:
            KeyExhaustedError: the version has reached the bound.
            StoreUnavailableError: the store did not answer.
        """
        if self._left.get(version_id, 0) <= self._block // 2:
            self._reserve(version_id)

    def used_ratio(self, version_id: VersionId) -> float:
        """Return which share of its uses a version had used up at the last reservation here.

        From memory. Uses in hand, of any process, count as used; at 1.0 no process gets
        any more. What is less than :data:`NOTED_RATIO_MIN` is 0.0, and so is a version
        that nothing was reserved for.
        """
        return self._used.get(version_id, 0) / self._limit

    def settle(self) -> None:
        """Reserve a block for every version that soon needs one, in one write.

        These are the versions that are used on credit, and those that have used up half
        of a block. One that has reached the bound is refused from then on. Beyond
        :data:`VERSIONS_MAX`, what the oldest ones have left is given back in another write.

        Raises:
            StoreUnavailableError: the store did not answer; what is left goes on.
        """
        with self._lock:
            waiting = sorted(self._low)
        if waiting:
            self._add(self._store.reserve_uses(waiting, self._block, self._limit))
        self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        """Keep the memory bounded, in a process that uses a million versions.

        A forgotten version gets credit again at its next use. So much of what it has left
        stays reserved, which makes that credit one that was paid for already.
        """
        with self._lock:
            many = min(len(self._left) - VERSIONS_MAX, _FORGOTTEN_AT_ONCE)
            oldest = list(islice(filter(self._is_forgettable, self._left), max(0, many)))
            left = {version_id: self._left.pop(version_id) for version_id in oldest}
        unused = {v: count - self._credit for v, count in left.items() if count > self._credit}
        if not unused:
            return
        try:
            self._store.give_back_uses(unused)
        except StoreUnconfirmedError:
            # They may have been taken back, so nobody may use them.
            raise
        except StoreUnavailableError:
            with self._lock:
                for version_id, count in left.items():
                    # One that was used meanwhile has got its credit already.
                    known = self._left.get(version_id, self._credit) - self._credit
                    self._left[version_id] = known + count
            raise

    def _is_forgettable(self, version_id: VersionId) -> bool:
        waits = version_id in self._low or version_id in self._on_credit
        return not waits and self._left[version_id] >= self._credit

    def _took(self, version_id: VersionId) -> bool:
        """Use one encryption of those in hand, and tell whether there was one."""
        with self._lock:
            left = self._left.get(version_id)
            if left is None:
                left = self._credit
                if left:
                    self._on_credit.add(version_id)
                    self._low.add(version_id)
            if left <= 0:
                return False
            self._left[version_id] = left - 1
            if left - 1 == self._block // 2 and self._credit:
                self._low.add(version_id)
            return True

    def _reserve(self, version_id: VersionId) -> None:
        # Not under the lock: nobody who still has uses shall wait for the disk. Of two
        # who come here at once both reserve, which only makes the block larger.
        try:
            granted = self._store.reserve_uses([version_id], self._block, self._limit)
        except StoreUnconfirmedError:
            # Nothing has changed but a count, which may be too high now.
            raise StoreUnavailableError("the store has not confirmed a reservation") from None
        self._add(granted)
        if not granted[version_id]:
            raise KeyExhaustedError(
                f"key version {version_id} has made {self._limit} ciphertexts, its bound",
                hint="rotate the key; what it has encrypted stays readable",
            )

    def _add(self, granted: dict[VersionId, int]) -> None:
        with self._lock:
            for version_id, count in granted.items():
                known = self._left.get(version_id, 0)
                if not count and version_id in self._on_credit:
                    # The version has reached its bound; uses that were reserved would
                    # still be its own, but a credit is not.
                    known = 0
                self._left[version_id] = known + count
            self._on_credit.difference_update(granted)
            self._low.difference_update(granted)
        self._warn_of(granted)

    def _warn_of(self, granted: dict[VersionId, int]) -> None:
        for version_id, used in self._store.uses(granted).items():
            if used >= NOTED_RATIO_MIN * self._limit:
                self._used[version_id] = used
            if used - granted[version_id] < self._limit // 2 <= used:
                self._warn(version_id, used)
