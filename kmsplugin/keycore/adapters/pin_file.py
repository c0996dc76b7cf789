"""PIN files, and the memory that a PIN was refused.

A token locks after a few wrong PINs, so a PIN that was refused once is not tried
again: a marker beside the state, tied to the very file that held the PIN, stops
every further login, in other processes and after restarts too, until the PIN
file changes. Its room on the disk is taken before the first login, since a refusal that
cannot be written down could not be remembered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keycore.errors import PinRejectedError, SettingsError
from keycore.files import exclusive

_MARKER_BYTES = 128


class PinFile:
    """One file holding one PIN, readable by its owner only."""

    def __init__(self, path: Path, marker: Path) -> None:
        """Read the PIN from ``path`` and remember a refusal in ``marker``."""
        self.path = path
        self.marker = marker

    def read(self) -> str:
        """Return the PIN without surrounding white space.

        Raises:
            SettingsError: the file is missing, empty, or open to others.
        """
        try:
            status = self.path.stat()
            pin = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(
                f"the PIN file {self.path} cannot be read: {reason}",
                hint="keyplane init makes it; for your own token write the user PIN into it",
            ) from None
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"the PIN file {self.path} is open to other users",
                hint=f"chown it to uid {os.geteuid()} and chmod 0600 {self.path}",
            )
        if not pin:
            raise SettingsError(f"the PIN file {self.path} is empty")
        return pin

    @contextmanager
    def login(self) -> Iterator[str]:
        """Yield the PIN for one login attempt; one attempt at a time on this machine.

        Raises:
            PinRejectedError: this PIN file was refused before; nothing was tried.
            SettingsError: as :meth:`read`.
        """
        with exclusive(self.marker.with_suffix(".lock")):
            pin = self.read()
            if self.was_refused():
                raise PinRejectedError(
                    f"the token refused the PIN in {self.path} before; no login was tried",
                    hint=f"write the right PIN into {self.path}; a changed file gets one more try",
                )
            self._mark("")
            try:
                yield pin
            except PinRejectedError:
                self._mark(self._identity())
                raise

    def was_refused(self) -> bool:
        """Tell whether the token has refused the PIN that the file holds now."""
        try:
            return self.marker.read_text(encoding="ascii").strip() == self._identity()
        except OSError:
            # One that cannot be read cannot be written either, which is told before a login.
            return False

    def _mark(self, identity: str) -> None:
        """Write into the room that the marker has, or make it at the first time."""
        try:
            with self.marker.open("r+b" if self.marker.exists() else "wb") as marker:
                marker.write(identity.encode().ljust(_MARKER_BYTES))
        except OSError as error:
            raise SettingsError(
                f"a refused PIN could not be remembered in {self.marker}: {error.strerror}",
                hint="make room, or let this process write there; no login was tried",
            ) from None

    def _identity(self) -> str:
        # Facts about the file rather than a hash of the PIN, which would be a
        # quick way to guess a short PIN.
        status = self.path.stat()
        return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
