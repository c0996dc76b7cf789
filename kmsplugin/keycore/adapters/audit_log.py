"""The audit log that faces write to: JSON lines in a chain of files."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import orjson
import structlog

from keycore.adapters.audit_chain import ChainWriter
from keycore.adapters.audit_sealing import LINES_MAX, AuditHeads, Sealing
from keycore.domain.audit_chain import LOST
from keycore.errors import AuditUnavailableError, StoreSetupError
from keycore.ports import AuditCondition, AuditEvent, Clock, RecordSigner

_log = structlog.get_logger(__name__)

_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Faults of a disk, not of an installation: the log is opened as soon as they are over.
After a fault a disk is often mounted read-only."""

_OPTIONS = orjson.OPT_UTC_Z


class ChainedAuditLog:
    """Appends each event as one line with one ``write``, chained to the line before."""

    def __init__(
        self,
        directory: Path,
        face: str,
        *,
        node: str,
        file_bytes: int,
        strict: bool,
        signer: RecordSigner,
        heads: AuditHeads,
        clock: Clock,
    ) -> None:
        """Take the first free slot of ``face`` and go on with its chain.

        Args:
            directory: where the files are; made when missing.
            face: begins their names.
            node: this host's name, in what is sealed.
            file_bytes: at this size a file is closed and the next one begun.
            strict: whether operations are refused when there is no room for their lines.
            signer: makes and checks the seals.
            heads: where the newest seal is kept as well.
            clock: for the lines about the log itself.

        Raises:
            StoreSetupError: the files cannot be used; nothing may be decided without them.
        """
        self._strict = strict
        self._lock = threading.Lock()
        self._lines = 0
        self._lost = 0
        self._owed = 0
        self._fault = ""
        self._closed = False
        self._writer = ChainWriter(directory, face, node=node, file_bytes=file_bytes, clock=clock)
        try:
            self._writer.go_on()
        except OSError as error:
            if error.errno not in _PASSING:
                self._writer.close()
                raise _unusable(directory, error) from None
            self._note(error)
        self._sealing = Sealing(
            self._writer, self._lock, look=self._look, signer=signer, heads=heads, clock=clock
        )
        self._sealing.start()

    def require_room(self) -> None:
        """Make sure that the line of an operation that begins now can be written.

        Raises:
            AuditUnavailableError: it cannot, and the face must not act without.
        """
        if self._writer.room or not self._strict:
            return
        with self._lock:
            try:
                self._writer.ask_for_room()
            except OSError as error:
                self._note(error)
                raise AuditUnavailableError(
                    "there is no room for audit lines, and nothing is done without",
                    hint=f"make room on the disk of {self._writer.directory}",
                ) from None
            self._note(None)

    def write(self, event: AuditEvent) -> None:
        """Append one line; one that cannot be written is counted, and goes to the process's log."""
        writer = self._writer
        with self._lock:
            if self._owed:
                self._own_up()
            line = orjson.dumps(
                {
                    "n": writer.number + 1,
                    "prev": writer.previous,
                    "time": event.time,
                    "operation": event.operation,
                    "outcome": event.outcome,
                    "face": event.face,
                    "actor": event.actor,
                    "correlation_id": event.correlation_id,
                    **event.details,
                },
                option=_OPTIONS,
            )
            try:
                writer.append(line)
            except OSError as error:
                self._lose(line, error)
                return
            self._lines += 1
            unsealed = writer.unsealed
        if unsealed == LINES_MAX:
            self._sealing.hurry()

    def condition(self) -> AuditCondition:
        """Return how the log is, from memory."""
        writer = self._writer
        return AuditCondition(
            lines=self._lines,
            lost=self._lost,
            unsealed=max(writer.unsealed, 0),
            fault=self._fault,
            broken=writer.broken,
        )

    def close(self) -> None:
        """Have everything sealed, and let the next process have the chain; once is enough."""
        if self._closed:
            return
        self._closed = True
        self._sealing.stop()
        with self._lock:
            self._writer.close()

    def _look(self) -> None:
        """See that the file is there and has room, also when nothing is written."""
        with self._lock:
            try:
                self._writer.look()
                self._writer.ask_for_room()
            except OSError as error:
                self._note(error)
                return
            self._note(None)
            if self._owed:
                self._own_up()

    def _own_up(self) -> None:
        """Say in the chain how many lines are missing before this place, once there is room."""
        try:
            self._writer.ask_for_room()
            self._writer.append_own(LOST, {"lines": self._owed})
        except OSError:
            return
        self._owed = 0
        self._note(None)

    def _lose(self, line: bytes, error: OSError) -> None:
        self._lost += 1
        self._owed += 1
        self._note(error)
        _log.error(
            "audit line could not be written",
            reason=error.strerror,
            path=str(self._writer.path),
            line=line.decode(),
        )

    def _note(self, error: OSError | None) -> None:
        fault = "" if error is None else f"no audit line can be written: {error.strerror}"
        known, self._fault = self._fault, fault
        if fault and not known:
            _log.error("no room for audit lines", reason=fault)
        elif known and not fault:
            _log.info("audit lines can be written again")


def _unusable(directory: Path, error: OSError) -> StoreSetupError:
    return StoreSetupError(
        f"the audit files in {directory} cannot be used: {error.strerror or error}",
        hint="check the disk and the permissions of the state directory",
    )
