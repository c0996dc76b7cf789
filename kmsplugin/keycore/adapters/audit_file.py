"""The audit log as a file of JSON lines."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import structlog

from keycore.errors import StoreSetupError
from keycore.ports import AuditEvent

_log = structlog.get_logger(__name__)


class FileAuditLog:
    """Appends each event as one line with one ``write``.

    With ``O_APPEND`` on a local file, lines of several processes never mix.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; it and its directory are made when missing.

        Raises:
            StoreSetupError: it cannot be opened; nothing may be decided without it.
        """
        self._path = path
        self._repair = b""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StoreSetupError(
                f"the audit file {path} cannot be opened: {error.strerror}",
                hint="check the disk and the permissions of the state directory",
            ) from None

    def write(self, event: AuditEvent) -> None:
        """Append one line.

        A full disk must not make etcd unreadable, so a line that cannot be written
        goes to the process's log instead, as an error.
        """
        line = orjson.dumps(
            {
                "time": event.time,
                "operation": event.operation,
                "outcome": event.outcome,
                "face": event.face,
                "actor": event.actor,
                "correlation_id": event.correlation_id,
                **event.details,
            },
            option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z,
        )
        try:
            written = os.write(self._descriptor, self._repair + line)
            reason = None if written == len(self._repair + line) else "only a part of it fitted"
            # After a torn line the next one must not be glued to it.
            self._repair = b"\n" if reason else b""
        except OSError as error:
            reason = error.strerror
        if reason is not None:
            _log.error(
                "audit line could not be written",
                reason=reason,
                path=str(self._path),
                line=line.decode().rstrip(),
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
