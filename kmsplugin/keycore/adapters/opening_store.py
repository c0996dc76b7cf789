"""A store that need not be there when the process starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from keycore.domain.ids import VersionId
from keycore.errors import KeyplaneError, StoreUnavailableError
from keycore.ports import AuditHead, Changes, Store, Transaction
from keycore.threads import start_daemon

RETRY_SECONDS = 2.0
"""Pause between attempts to open the store."""


class OpeningStore:
    """Opens a store in a thread of its own, and again and again until it is open.

    Until then every method raises ``StoreUnavailableError`` at once, with the reason. A
    store that does not answer any more is opened anew: it may have been put back.

    Attributes:
        error: what the last attempt has met; ``None`` when there was none.
    """

    def __init__(
        self, open_store: Callable[[], Store], *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """Begin to open the store; ``open_store`` may take its time."""
        self._open_store = open_store
        self._retry_seconds = retry_seconds
        self._store: Store | None = None
        self._fault = "the store is being opened"
        self.error: KeyplaneError | None = None
        self._attempted = threading.Event()
        self._closed = threading.Event()
        # An attempt can hang in a disk, and must not keep the process alive.
        start_daemon(self._keep_open, "store-opening")

    def wait(self, seconds: float) -> str:
        """Wait for the first attempt, so long at most; return what is wrong, empty for nothing."""
        self._attempted.wait(seconds)
        return "" if self._store is not None else self._fault

    def reading(self) -> AbstractContextManager[Transaction]:
        """Open a consistent view for reading."""
        return self._opened().reading()

    def writing(self) -> AbstractContextManager[Transaction]:
        """Open the only writer."""
        return self._opened().writing()

    def version(self) -> int:
        """Return a number that is another one after any write; -1 until the store is open."""
        return -1 if self._store is None else self._store.version()

    def changes_since(self, sequence: int) -> Changes:
        """Return what was written after ``sequence``."""
        return self._opened().changes_since(sequence)

    def reserve_uses(
        self, version_ids: Sequence[VersionId], count: int, limit: int
    ) -> dict[VersionId, int]:
        """Reserve up to ``count`` uses of each version."""
        return self._opened().reserve_uses(version_ids, count, limit)

    def give_back_uses(self, unused: Mapping[VersionId, int]) -> None:
        """Take back encryptions that nobody will make."""
        self._opened().give_back_uses(unused)

    def count_start(self, limit: int) -> bool:
        """Count the start of a process."""
        return self._opened().count_start(limit)

    def uses(self, version_ids: Iterable[VersionId]) -> Mapping[VersionId, int]:
        """Return how many uses were granted for each version."""
        return self._opened().uses(version_ids)

    def save_audit_head(self, head: AuditHead) -> None:
        """Insert or replace the head of its chain."""
        self._opened().save_audit_head(head)

    def audit_heads(self) -> Sequence[AuditHead]:
        """Return the head of every chain."""
        return self._opened().audit_heads()

    def scrub(self) -> None:
        """Make sure that no file of the store holds overwritten bytes any more."""
        self._opened().scrub()

    def close(self) -> None:
        """Close the store if it is open, and stop opening it."""
        self._closed.set()
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store:
        if self._store is None:
            raise StoreUnavailableError(self._fault)
        return self._store

    def _keep_open(self) -> None:
        while True:
            if not self._answers():
                self._open()
            self._attempted.set()
            if self._closed.wait(self._retry_seconds):
                return

    def _answers(self) -> bool:
        if self._store is None:
            return False
        try:
            # The least that can be asked; it finds a file that is another one.
            self._store.uses(())
        except StoreUnavailableError:
            return False
        return True

    def _open(self) -> None:
        former = self._store
        try:
            self._store = self._open_store()
        except KeyplaneError as error:
            self.error = error
            self._fault = f"{error.message}; {error.hint}" if error.hint else error.message
        except Exception as error:  # noqa: BLE001 - without this thread nobody tries again.
            self._fault = f"the store cannot be opened: {type(error).__name__}"
        else:
            if former is not None:
                former.close()
            if self._closed.is_set():
                self._store.close()
