"""Files that survive a power cut, and turns that processes of one machine take."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

_POLL_SECONDS = 0.02


@contextmanager
def exclusive(lock_file: Path, *, within_seconds: float | None = None) -> Iterator[None]:
    """Wait until no other process is inside the block of the same file, and enter it.

    The file is made when missing and stays; the kernel frees the lock when a process ends.

    Args:
        lock_file: its content does not matter.
        within_seconds: how long to wait at most; ``None`` for as long as it takes.

    Raises:
        OSError: the file cannot be opened.
        TimeoutError: another process was inside all the time.
    """
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if within_seconds is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            _lock_within(lock, within_seconds)
        yield
    finally:
        os.close(lock)


def _lock_within(lock: int, seconds: float) -> None:
    attempts = Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(_POLL_SECONDS),
    )
    try:
        attempts(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except RetryError:
        raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None


def replace_durably(path: Path, content: bytes, *, mode: int) -> None:
    """Put ``content`` in the place of a file, at once and for good.

    Args:
        path: the file; a reader finds its old content or the new one, never a part.
        content: all of it.
        mode: its permissions, which hold from the first byte on.

    Raises:
        OSError: it cannot be written; the old content stays, or a power cut may bring
            it back.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    # The new name lies in the directory, which has a place on the disk of its own.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
