"""The file that a process appends its audit lines to, and the room behind its end."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import structlog

from keycore.adapters.audit_files import AuditFile
from keycore.adapters.audit_room import (
    CHUNK_BYTES,
    PROMISED_BYTES,
    give_room_back,
    take_room,
)

_log = structlog.get_logger(__name__)


class OpenFile:
    """Appends whole lines or nothing.

    Attributes:
        file: its name.
        size: bytes of whole lines.
    """

    def __init__(self, file: AuditFile, descriptor: int, size: int) -> None:
        """Append behind ``size`` bytes; :meth:`create` and :meth:`reopen` open files."""
        self.file = file
        self.size = size
        self._descriptor = descriptor
        self._room_end = 0

    @classmethod
    def create(cls, file: AuditFile) -> OpenFile:
        """Make a file that is not there yet, with room behind its end.

        Raises:
            OSError: it cannot be made, or there is no room; it is not there then.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        made = cls(file, os.open(file.path, flags, 0o600), 0)
        try:
            made.ask_for_room()
        except OSError:
            made.discard()
            raise
        return made

    @classmethod
    def reopen(cls, file: AuditFile, size: int) -> OpenFile:
        """Go on with a file behind its first ``size`` bytes; what stands there is cut off.

        Raises:
            OSError: it cannot be written.
        """
        opened = cls(file, os.open(file.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), size)
        try:
            # Also what another process has taken and a kill kept it from giving back.
            os.ftruncate(opened._descriptor, size)
        except OSError:
            os.close(opened._descriptor)
            raise
        opened.renew_room()
        return opened

    @property
    def room(self) -> bool:
        """Whether the line of one more operation is sure to fit."""
        return self.size + PROMISED_BYTES <= self._room_end

    def write(self, whole: bytes) -> None:
        """Append a line with its line break.

        Raises:
            OSError: it could not be written, and nothing of it is in the file.
        """
        try:
            written = os.write(self._descriptor, whole)
        except OSError:
            self._cut_back()
            raise
        if written != len(whole):
            self._cut_back()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def ask_for_room(self) -> None:
        """Take room ahead if there is not enough left.

        Raises:
            OSError: there is none.
        """
        if not self.room:
            self._room_end = take_room(self._descriptor, self.size)

    def renew_room(self) -> None:
        """Take room ahead in good time; whoever must have it asks, and is told of a fault."""
        if self.size + CHUNK_BYTES // 2 > self._room_end:
            with suppress(OSError):
                self._room_end = take_room(self._descriptor, self.size)

    def fault(self) -> str:
        """Tell what somebody has done to the file; empty when it is as it was left."""
        ours = os.fstat(self._descriptor)
        try:
            there = self.file.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return "was removed"
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return "was replaced"
        return "" if ours.st_size == self.size else "was cut or added to"

    def duplicate(self) -> int:
        """Return another descriptor, for a sync without the lock; the caller closes it."""
        return os.dup(self._descriptor)

    def retire(self) -> int:
        """Give back the room, and return the descriptor: its lines may not be on the disk yet."""
        try:
            give_room_back(self._descriptor)
        except OSError as error:
            _log.warning("an audit file keeps room it does not need", reason=error.strerror)
        return self._descriptor

    def discard(self) -> None:
        """Remove the file again: it could not be begun."""
        os.close(self._descriptor)
        with suppress(OSError):
            self.file.path.unlink()

    def _cut_back(self) -> None:
        """Remove the part of a line that fitted, so that the next one is not glued to it."""
        try:
            if os.fstat(self._descriptor).st_size > self.size:
                os.ftruncate(self._descriptor, self.size)
        except OSError as error:
            _log.error("a part of an audit line stays in the file", reason=error.strerror)
        # A cut gives back what was taken ahead as well.
        self._room_end = 0
