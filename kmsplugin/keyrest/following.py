"""Tells when files may have changed, without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keycore.ports import Clock

SETTLED_SECONDS = 2.0
"""How long changed files are read again although their attributes stay: two edits within
one tick of the file system's clock look like one (two seconds on the coarsest)."""


class FileWatch:
    """Looks at the attributes of some files. Belongs to the one thread that asks it."""

    def __init__(self, paths: Sequence[Path], clock: Clock) -> None:
        """Watch ``paths``; made before they are read, it misses no change in between."""
        self._paths = tuple(paths)
        self._clock = clock
        self._attributes = self._look()
        self._changed_at = clock.monotonic()

    def may_have_changed(self) -> bool:
        """Tell whether the files are worth reading; costs one ``stat`` for each of them."""
        attributes, now = self._look(), self._clock.monotonic()
        if attributes != self._attributes:
            self._attributes, self._changed_at = attributes, now
        return now - self._changed_at < SETTLED_SECONDS

    def _look(self) -> list[tuple[int, ...] | None]:
        return [attributes_of(path) for path in self._paths]


def attributes_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file, its place behind symbolic links included.

    The time of the last change of attributes (ctime) cannot be set, so it also tells
    about an edit that restores the time of the last write.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return (
        *(status.st_dev, status.st_ino, status.st_size, status.st_mode),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
