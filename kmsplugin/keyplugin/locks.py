"""Who may serve a socket, and who comes next: two lock files beside it.

Whoever shows a socket at the public path holds ``next``, whether it starts, takes over
or puts its own socket back, so a live socket is never replaced by accident. ``lock``
belongs to the one that serves. A takeover needs ``next`` alone at first, and gets
``lock`` when the former owner has seen the new socket and gives it up. The kernel frees
both when a process ends, however it ends, and containers that share the directory
share the locks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tenacity import RetryError as GivenUpError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from keycore.errors import SettingsError

PATIENCE_SECONDS = 1.0
"""How long a lock is waited for that somebody may hold for a moment only."""

_POLL_SECONDS = 0.02


class FileLock:
    """One lock of this process on one file; the file stays, so that all lock the same one.

    Attributes:
        held: whether this process has the lock.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and make it when missing; nothing is locked yet.

        Raises:
            SettingsError: it cannot be opened, or is a link.
        """
        self._path = path
        self._descriptor = _opened(path)
        self.held = False

    def take(self, *, within_seconds: float = 0) -> bool:
        """Take the lock if it is free, or becomes free in time; tell whether we have it."""
        attempts = Retrying(
            retry=retry_if_result(lambda taken: not taken),
            stop=stop_after_delay(within_seconds),
            wait=wait_fixed(_POLL_SECONDS),
        )
        try:
            self.held = attempts(self._take_now)
        except GivenUpError:
            self.held = False
        return self.held

    def release(self) -> None:
        """Let somebody else have it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.held = False

    def renew(self) -> None:
        """Lock the file that has the name now, where somebody has removed ours.

        Others would lock the new file, and two processes could have the same right.

        Raises:
            SettingsError: the new file cannot be opened.
        """
        with suppress(FileNotFoundError):
            if self._path.lstat().st_ino == os.fstat(self._descriptor).st_ino:
                return
        fresh, lost = _opened(self._path), self._descriptor
        self._descriptor = fresh
        os.close(lost)
        if self.held:
            self.take()

    def close(self) -> None:
        """Close the file, which releases the lock as well."""
        os.close(self._descriptor)
        self.held = False

    def _take_now(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(
            f"the lock file {path} cannot be opened: {error.strerror}",
            hint=f"check that uid {os.geteuid()} may write in {path.parent}",
        ) from None


class SocketLocks:
    """Both locks of one socket path."""

    def __init__(self, path: Path) -> None:
        """Open both files, ``<socket>.lock`` and ``<socket>.next``.

        Raises:
            SettingsError: one of them cannot be opened.
        """
        self.owner = FileLock(path.with_name(f"{path.name}.lock"))
        """Held by the process that serves the path."""
        try:
            self.next = FileLock(path.with_name(f"{path.name}.next"))
            """Held by the process that is about to show a socket at the path."""
        except BaseException:
            self.owner.close()
            raise

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Hold ``next`` during a block, if nobody else has it; yield whether we do."""
        mine = not self.next.held and self.next.take()
        try:
            yield self.next.held
        finally:
            if mine:
                self.next.release()

    def renew(self) -> None:
        """Keep what we have where somebody has removed the files (:meth:`FileLock.renew`).

        Raises:
            SettingsError: they cannot be opened again.
        """
        self.owner.renew()
        self.next.renew()

    def close(self) -> None:
        """Release both."""
        self.owner.close()
        self.next.close()
