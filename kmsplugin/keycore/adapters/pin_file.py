"""PIN files, and the memory that a PIN was refused.

A token locks after a few wrong PINs, so a PIN that was refused once is not tried
again: a marker beside the state, tied to the very file that held the PIN, stops
every further login, in other processes and after restarts too, until the PIN
file changes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keycore.errors import PinRejectedError, SettingsError
from keycore.files import exclusive


class PinFile:
    """One file holding one PIN, readable by its owner only."""

    def __init__(self, path: Path, marker: Path) -> None:
        """Read the PIN from ``path`` and remember a refusal in ``marker``."""
        self._path = path
        self._marker = marker

    def read(self) -> str:
        """Return the PIN without surrounding white space.

        Raises:
            SettingsError: the file is missing, empty, or open to others.
        """
        try:
            status = self._path.stat()
            pin = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(
                f"the PIN file {self._path} cannot be read: {reason}",
                hint="keyplane init makes it; for your own token write the user PIN into it",
            ) from None
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"the PIN file {self._path} is open to other users",
                hint=f"chown it to uid {os.geteuid()} and chmod 0600 {self._path}",
            )
        if not pin:
            raise SettingsError(f"the PIN file {self._path} is empty")
        return pin

    @contextmanager
    def login(self) -> Iterator[str]:
        """Yield the PIN for one login attempt; one attempt at a time on this machine.

        Raises:
            PinRejectedError: this PIN file was refused before; nothing was tried.
            SettingsError: as :meth:`read`.
        """
        with exclusive(self._marker.with_suffix(".lock")):
            pin = self.read()
            identity = self._identity()
            self._refuse_if_marked(identity)
            try:
                yield pin
            except PinRejectedError:
                self._marker.write_text(identity, encoding="ascii")
                raise

    def _refuse_if_marked(self, identity: str) -> None:
        try:
            marked = self._marker.read_text(encoding="ascii")
        except FileNotFoundError:
            return
        if marked == identity:
            raise PinRejectedError(
                f"the token refused the PIN in {self._path} before; no login was tried",
                hint=f"write the right PIN into {self._path}; a changed file gets one more try",
            )
        self._marker.unlink(missing_ok=True)

    def _identity(self) -> str:
        # Facts about the file rather than a hash of the PIN, which would be a
        # quick way to guess a short PIN.
        status = self._path.stat()
        return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
