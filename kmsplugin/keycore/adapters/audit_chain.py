"""One slot's chain as this process writes it: the newest file, its room, and the next one."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from keycore.adapters.audit_files import AuditFile, Slot, Tail, chained_files, read_end
from keycore.adapters.audit_room import (
    CHUNK_BYTES,
    PROMISED_BYTES,
    give_room_back,
    take_room,
)
from keycore.domain.audit_chain import (
    FILE,
    NO_DIGEST,
    TAKEN_OVER,
    TORN,
    Chain,
    Seal,
    checkpoint_line,
    own_line,
)
from keycore.domain.ids import new_uuid
from keycore.ports import Clock

_log = structlog.get_logger(__name__)

_AGAIN_BYTES = 64 * 1024
"""How much later the next file is tried again when it could not be begun."""

_FRAGMENT_CHARACTERS_MAX = 1000


class ChainWriter:
    """Appends lines to a slot's chain. Whoever calls it holds one lock around all calls.

    Attributes:
        chain: the chain that new lines belong to.
        number: of the newest line; 0 before the first.
        previous: digest of that line, hexadecimal.
        unsealed: lines since the newest seal, checkpoints left out.
        past: the newest seal that was found in the file, to be checked.
        begun: this process began the chain.
        broken: why the chain does not go on where it should; empty when it does.
        open: there is a file to write to.
    """

    def __init__(
        self, directory: Path, slot: Slot, *, node: str, file_bytes: int, clock: Clock
    ) -> None:
        """Write to the chain of ``slot``; nothing is opened before :meth:`go_on`."""
        self._directory = directory
        self._slot = slot
        self._node = node
        self._file_bytes = file_bytes
        self._clock = clock
        self._descriptor = -1
        self._size = 0
        self._next_file_at = file_bytes
        self._room_end = 0
        self._file = AuditFile.of(directory, slot.name, 0)
        self._retired: list[int] = []
        self._tail = Tail()
        self.chain = Chain(new_uuid(), node, slot.name)
        self.number = 0
        self.previous = NO_DIGEST
        self.unsealed = 0
        self.past: Seal | None = None
        self.begun = False
        self.broken = ""

    @property
    def open(self) -> bool:
        """Whether there is a file to write to."""
        return self._descriptor >= 0

    @property
    def path(self) -> Path:
        """The newest file."""
        return self._file.path

    @property
    def room(self) -> bool:
        """Whether the line of one more operation is sure to fit."""
        return self._size + PROMISED_BYTES <= self._room_end

    # --- where it goes on ------------------------------------------------------

    def go_on(self) -> None:
        """Take up the chain where its newest file ends, or begin one.

        A chain that does not hang together is left as it is, for ``keyplane audit
        verify`` to look at, and another one is begun behind it.

        Raises:
            OSError: there is no file to write to, and none can be made.
        """
        files = chained_files(self._directory).get(self._slot.name, ())
        while files and files[-1].path.stat().st_size == 0:
            # Its process was killed before the first line.
            files[-1].path.unlink()
            files = files[:-1]
        if not files:
            self._begin_file()
            self.begun = True
            return
        self._file = files[-1]
        tail = read_end(files)
        if tail.fault or tail.chain is None or tail.line is None:
            self.begin_anew(f"{files[-1].path.name}: {tail.fault}")
            return
        self._take_up(files[-1], tail)

    def _take_up(self, file: AuditFile, tail: Tail) -> None:
        assert tail.chain is not None  # noqa: S101
        assert tail.line is not None  # noqa: S101
        descriptor = os.open(file.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        self._descriptor, self._file, self._size = descriptor, file, tail.size
        self._next_file_at = self._file_bytes
        self.chain, self.number, self.previous = tail.chain, tail.line.number, tail.line.digest
        self.unsealed, self.past = tail.unsealed, tail.seal
        # Also what another process has taken and a kill kept it from giving back.
        os.ftruncate(descriptor, tail.size)
        self._take_room()
        self._tail = tail

    def tell_what_was_found(self) -> None:
        """Leave a line about what the last process of this slot could not finish."""
        tail, self._tail = self._tail, Tail()
        if tail.fragment:
            kept = tail.fragment[:_FRAGMENT_CHARACTERS_MAX].decode(errors="replace")
            self._append_own(TORN, {"bytes": len(tail.fragment), "fragment": kept})
        if tail.unsealed:
            self._append_own(TAKEN_OVER, {"unsealed": tail.unsealed})

    def begin_anew(self, reason: str) -> None:
        """Begin another chain in the next file, and remember why.

        Raises:
            OSError: the file cannot be made; everything stays as it is.
        """
        before = (self.chain, self.number, self.previous)
        self.chain = Chain(new_uuid(), self._node, self._slot.name)
        self.number, self.previous = 0, NO_DIGEST
        try:
            self._begin_file(reason)
        except OSError:
            self.chain, self.number, self.previous = before
            raise
        self.unsealed, self.past, self.begun, self.broken = 1, None, True, reason
        self._tail = Tail()
        _log.error("the audit chain is broken and another one was begun", reason=reason)

    # --- lines -----------------------------------------------------------------

    def append(self, line: bytes) -> None:
        """Append a line that has :attr:`number` + 1 and :attr:`previous` in it.

        Raises:
            OSError: it could not be written, and nothing of it is in the file.
        """
        self._write(line)
        self.unsealed += 1
        if self._size > self._next_file_at:
            self._next_file()
        elif self._size + CHUNK_BYTES // 2 > self._room_end:
            self._take_room()

    def append_own(self, operation: str, facts: Mapping[str, str | int]) -> None:
        """Append a line about the log itself.

        Raises:
            OSError: as :meth:`append`.
        """
        self.append(self._own(operation, facts))

    def append_seal(self, seal: Seal, covered: int) -> None:
        """Append a checkpoint.

        Args:
            seal: what it holds.
            covered: how many of :attr:`unsealed` it covers.

        Raises:
            OSError: as :meth:`append`.
        """
        line = checkpoint_line(self.chain, seal, number=self.number + 1, previous=self.previous)
        self._write(line)
        self.unsealed -= covered

    def _append_own(self, operation: str, facts: Mapping[str, str | int]) -> None:
        try:
            self.append_own(operation, facts)
        except OSError as error:
            _log.error("audit line could not be written", reason=error.strerror, line=operation)

    def _own(self, operation: str, facts: Mapping[str, str | int]) -> bytes:
        return own_line(
            self.chain,
            operation,
            self._clock.now(),
            number=self.number + 1,
            previous=self.previous,
            facts=facts,
        )

    def _write(self, line: bytes) -> None:
        if self._descriptor < 0:
            raise OSError(errno.ENOENT, "there is no audit file")
        whole = line + b"\n"
        try:
            written = os.write(self._descriptor, whole)
        except OSError:
            self._cut_back()
            raise
        if written != len(whole):
            self._cut_back()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self.number += 1
        self.previous = hashlib.sha256(line).hexdigest()

    def _cut_back(self) -> None:
        """Remove the part of a line that fitted, so that the next one is not glued to it."""
        try:
            if os.fstat(self._descriptor).st_size > self._size:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            _log.error("a part of an audit line stays in the file", reason=error.strerror)
        # A cut gives back what was taken ahead as well.
        self._room_end = 0

    # --- files and room --------------------------------------------------------

    def ask_for_room(self) -> None:
        """Take room ahead if there is not enough left.

        Raises:
            OSError: there is none.
        """
        if self._descriptor < 0:
            self._go_on_again()
        if not self.room:
            self._room_end = take_room(self._descriptor, self._size)

    def _take_room(self) -> None:
        # Whoever must have room asks again, and is told when there is none.
        with suppress(OSError):
            self._room_end = take_room(self._descriptor, self._size)

    def _next_file(self) -> None:
        try:
            self._begin_file()
        except OSError as error:
            # The file gets longer than wanted, which hurts less than a lost line.
            self._next_file_at = self._size + _AGAIN_BYTES
            _log.warning("the next audit file could not be begun", reason=error.strerror)

    def _begin_file(self, reason: str = "") -> None:
        """Make a file whose first line names its chain, and write to it from now on."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = chained_files(self._directory).get(self._slot.name, ())
        number = max(self._file.number, there[-1].number if there else 0) + 1
        file = AuditFile.of(self._directory, self._slot.name, number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        before = (self._descriptor, self._file, self._size, self._room_end)
        self._descriptor = os.open(file.path, flags, 0o600)
        self._file, self._size, self._room_end = file, 0, 0
        facts: dict[str, str | int] = {
            "chain": self.chain.id,
            "node": self.chain.node,
            "name": self.chain.name,
            "file": number,
        }
        try:
            self._room_end = take_room(self._descriptor, 0)
            self._write(self._own(FILE, facts | ({"reason": reason} if reason else {})))
        except OSError:
            os.close(self._descriptor)
            file.path.unlink(missing_ok=True)
            self._descriptor, self._file, self._size, self._room_end = before
            raise
        self.unsealed += 1
        self._next_file_at = self._file_bytes
        self._retire(before[0])

    def _retire(self, descriptor: int) -> None:
        if descriptor < 0:
            return
        try:
            give_room_back(descriptor)
        except OSError as error:
            _log.warning("an audit file keeps room it does not need", reason=error.strerror)
        # Its last lines may not be on the disk yet.
        self._retired.append(descriptor)

    def look(self) -> None:
        """Make sure that the file is still there and is as this process has left it.

        Otherwise the chain goes on in another file; what was in the old one is missing
        there, as ``keyplane audit verify`` then says.

        Raises:
            OSError: there is no file to write to, and none can be made.
        """
        if self._descriptor < 0:
            self._go_on_again()
            return
        fault = self._fault_of_file()
        if not fault:
            return
        if not self.broken:
            self.broken = f"{self.path.name} {fault} while it was written"
            _log.error("the audit file was tampered with", path=str(self.path), fault=fault)
        try:
            self._begin_file()
        except OSError:
            # Lines in a file without a name would be lost, and nobody would know.
            os.close(self._descriptor)
            self._descriptor, self._size, self._room_end = -1, 0, 0
            raise

    def _go_on_again(self) -> None:
        if self.number:
            self._begin_file()
        else:
            self.go_on()

    def _fault_of_file(self) -> str:
        ours = os.fstat(self._descriptor)
        try:
            there = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return "was removed"
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return "was replaced"
        return "" if ours.st_size == self._size else "was cut or added to"

    def duplicates(self) -> list[int]:
        """Return descriptors of every file with lines that may not be on the disk yet.

        The caller syncs them without the lock, and closes them.
        """
        retired, self._retired = self._retired, []
        return [*retired, os.dup(self._descriptor)] if self._descriptor >= 0 else retired

    def close(self) -> None:
        """Give back room, file and slot."""
        for descriptor in self._retired:
            os.close(descriptor)
        if self._descriptor >= 0:
            try:
                give_room_back(self._descriptor)
            except OSError as error:
                _log.warning("an audit file keeps room it does not need", reason=error.strerror)
            os.close(self._descriptor)
            self._descriptor = -1
        self._slot.release()
