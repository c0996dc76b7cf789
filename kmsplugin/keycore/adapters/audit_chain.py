"""One slot's chain as this process writes it: its newest file, and the next one."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from keycore.adapters.audit_files import AuditFile, Slot, chained_files, claim_slot, take_slot
from keycore.adapters.audit_open_file import OpenFile
from keycore.adapters.audit_tail import Tail, read_end, torn_begin
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
        directory: where the files are.
        chain: the chain that new lines belong to.
        number: of the newest line; 0 before the first.
        previous: digest of that line, hexadecimal.
        unsealed: lines since the newest seal, checkpoints left out.
        past: the newest seal that was found in the file, to be checked.
        begun: this process began the chain.
        broken: why the chain does not go on where it should; empty when it does.
    """

    def __init__(
        self, directory: Path, face: str, *, node: str, file_bytes: int, clock: Clock
    ) -> None:
        """Write to a chain of ``face``; nothing is opened before :meth:`go_on`."""
        self.directory = directory
        self._face = face
        self._node = node
        self._file_bytes = file_bytes
        self._clock = clock
        self._slot: Slot | None = None
        self._open: OpenFile | None = None
        self._closed = False
        self._newest = 0
        self._next_file_at = file_bytes
        self._retired: list[int] = []
        self._directory_changed = False
        self._tail = Tail()
        self.chain = Chain(new_uuid(), node, face)
        self.number = 0
        self.previous = NO_DIGEST
        self.unsealed = 0
        self.past: Seal | None = None
        self.begun = False
        self.broken = ""

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._open is not None

    @property
    def path(self) -> Path:
        """The newest file, or the directory as long as there is none."""
        return self._open.file.path if self._open else self.directory

    @property
    def room(self) -> bool:
        """Whether the line of one more operation is sure to fit."""
        return self._open is not None and self._open.room

    # --- where it goes on ------------------------------------------------------

    def go_on(self) -> None:
        """Take up the chain of a free slot where its newest file ends, or begin one.

        A chain that does not hang together is left as it is, for ``keyplane audit
        verify`` to look at, and another one is begun behind it.

        Raises:
            OSError: there is no file to write to, and none can be made.
        """
        slot = self._claimed()
        files = list(chained_files(self.directory).get(slot.name, ()))
        fragment = torn_begin(files[-1]) if files else None
        if fragment is not None:
            # Its process died within the first line, which says nothing new.
            files.pop().path.unlink()
        if not files:
            self._begin_file()
            self._tail, self.begun = Tail(fragment=fragment or b""), True
            return
        self._newest = files[-1].number
        tail = read_end(files)
        if tail.fault or tail.chain is None or tail.line is None:
            self.begin_anew(f"{files[-1].path.name}: {tail.fault}")
            return
        if tail.chain.name != slot.name:
            self.begin_anew(f"{files[-1].path.name}: it is of the slot {tail.chain.name}")
            return
        if tail.chain.node != self._node:
            # The HSM shall seal nothing in another host's name. This one may have had it.
            self._begin_chain(f"the chain before is of the host {tail.chain.node}")
            return
        self._open = OpenFile.reopen(files[-1], tail.size)
        self.chain, self.number, self.previous = tail.chain, tail.line.number, tail.line.digest
        self.unsealed, self.past = tail.unsealed, tail.seal
        self._tail = Tail(unsealed=tail.unsealed, fragment=fragment or tail.fragment)

    def _claimed(self) -> Slot:
        if self._slot is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._slot = claim_slot(self.directory, self._face)
            self.chain = Chain(self.chain.id, self._node, self._slot.name)
        return self._slot

    def tell_what_was_found(self) -> None:
        """Leave a line about what the last process of this slot could not finish."""
        tail, self._tail = self._tail, Tail()
        if tail.fragment:
            kept = tail.fragment[:_FRAGMENT_CHARACTERS_MAX].decode(errors="replace")
            self._append_found(TORN, {"bytes": len(tail.fragment), "fragment": kept})
        if tail.unsealed:
            self._append_found(TAKEN_OVER, {"unsealed": tail.unsealed})

    def begin_anew(self, reason: str) -> None:
        """Begin another chain in the next file, and remember why.

        Raises:
            OSError: the file cannot be made; everything stays as it is.
        """
        self._begin_chain(reason)
        self.begun, self.broken = True, reason
        _log.error("the audit chain is broken and another one was begun", reason=reason)

    def _begin_chain(self, reason: str) -> None:
        before = (self.chain, self.number, self.previous)
        self.chain = Chain(new_uuid(), self._node, self._claimed().name)
        self.number, self.previous = 0, NO_DIGEST
        try:
            self._begin_file(reason)
        except OSError:
            self.chain, self.number, self.previous = before
            raise
        self.unsealed, self.past, self._tail = 1, None, Tail()

    # --- lines -----------------------------------------------------------------

    def append(self, line: bytes) -> None:
        """Append a line that has :attr:`number` + 1 and :attr:`previous` in it.

        Raises:
            OSError: it could not be written, and nothing of it is in the file.
        """
        opened = self._write(line)
        self.unsealed += 1
        if opened.size > self._next_file_at:
            self._next_file(opened)
        else:
            opened.renew_room()

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
        self._write(
            checkpoint_line(self.chain, seal, number=self.number + 1, previous=self.previous)
        )
        self.unsealed -= covered

    def _append_found(self, operation: str, facts: Mapping[str, str | int]) -> None:
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

    def _write(self, line: bytes) -> OpenFile:
        opened = self._open
        if opened is None:
            raise OSError(errno.ENOENT, "there is no audit file")
        opened.write(line + b"\n")
        self.number += 1
        self.previous = hashlib.sha256(line).hexdigest()
        return opened

    # --- files and room --------------------------------------------------------

    def ask_for_room(self) -> None:
        """Take room ahead if there is not enough left.

        Raises:
            OSError: there is none.
        """
        self._opened().ask_for_room()

    def _next_file(self, opened: OpenFile) -> None:
        try:
            self._begin_file()
        except OSError as error:
            # The file gets longer than wanted, which hurts less than a lost line.
            self._next_file_at = opened.size + _AGAIN_BYTES
            _log.warning("the next audit file could not be begun", reason=error.strerror)

    def _begin_file(self, reason: str = "") -> None:
        """Make a file whose first line names its chain, and write to it from now on."""
        slot = self._claimed()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        there = chained_files(self.directory).get(slot.name, ())
        number = max(self._newest, there[-1].number if there else 0) + 1
        facts: dict[str, str | int] = {
            "chain": self.chain.id,
            "node": self.chain.node,
            "name": self.chain.name,
            "file": number,
        }
        before, opened = (
            self._open,
            OpenFile.create(AuditFile.of(self.directory, slot.name, number)),
        )
        self._open = opened
        try:
            self._write(self._own(FILE, facts | ({"reason": reason} if reason else {})))
        except OSError:
            self._open = before
            opened.discard()
            raise
        self._newest, self._next_file_at = number, self._file_bytes
        self.unsealed += 1
        self._directory_changed = True
        if before is not None:
            self._retired.append(before.retire())

    def look(self) -> None:
        """Make sure that slot and file are still ours, and as this process has left them.

        Otherwise the chain goes on in another file; what was in the old one is missing
        there, as ``keyplane audit verify`` then says.

        Raises:
            OSError: there is no file to write to, and none can be made.
        """
        opened = self._opened()
        try:
            self._keep_slot()
            if opened is self._open and (fault := opened.fault()):
                self._note_broken(f"{opened.file.path.name} {fault} while it was written")
                self._begin_file()
        except OSError:
            if opened is self._open and opened.fault():
                # Lines in a file without a name would be lost, and nobody would know.
                self._retired.append(opened.retire())
                self._open = None
            raise

    def _note_broken(self, reason: str) -> None:
        if not self.broken:
            self.broken = reason
            _log.error("the audit file was tampered with", path=str(self.path), reason=reason)

    def _keep_slot(self) -> None:
        """Take the lock again when its file was removed, before another process does."""
        slot = self._slot
        if slot is None or slot.is_kept():
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        again = take_slot(self.directory, slot.name)
        self._slot = again or claim_slot(self.directory, self._face)
        slot.release()
        if again is None:
            self._newest = 0
            try:
                self.begin_anew(f"another process has {slot.name}, because its lock was removed")
            except OSError:
                # Nothing more goes into the other one's file; the next line takes up this slot.
                if self._open is not None:
                    self._retired.append(self._open.retire())
                self._open, self.number = None, 0
                raise

    def _opened(self) -> OpenFile:
        if self._closed:
            # Another process may have the slot by now.
            raise OSError(errno.EBADF, "the audit log is closed")
        if self._open is None:
            if self.number:
                self._begin_file()
            else:
                self.go_on()
                self.tell_what_was_found()
        assert self._open is not None  # noqa: S101
        return self._open

    def duplicates(self) -> list[int]:
        """Return descriptors of every file with lines that may not be on the disk yet.

        The caller syncs them without the lock, and closes them.
        """
        descriptors, self._retired = self._retired, []
        if self._open is not None:
            descriptors.append(self._open.duplicate())
        if self._directory_changed:
            # A file whose name is not on the disk is gone after a power cut.
            with suppress(OSError):
                descriptors.append(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY))
            self._directory_changed = False
        return descriptors

    def close(self) -> None:
        """Give back room, file and slot; nothing is written afterwards."""
        self._closed = True
        if self._open is not None:
            self._retired.append(self._open.retire())
            self._open = None
        for descriptor in self._retired:
            os.close(descriptor)
        self._retired = []
        if self._slot is not None:
            self._slot.release()
            self._slot = None
