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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keycore.errors import PinRejectedError, SettingsError, TokenUnavailableError
from keycore.files import exclusive

_MARKER_BYTES = 128

_REFUSED = "refused"

CUT_OFF_MAX = 2
"""Logins that may begin and never end, as when a process is killed inside, before the PIN
counts as refused. One can be bad luck; a token could count each as a wrong PIN."""

LOGIN_SECONDS_MAX = 30.0
"""How long another process's login is waited for."""


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
        return self._read()[0]

    @contextmanager
    def login(self) -> Iterator[str]:
        """Yield the PIN for one login attempt; one attempt at a time on this machine.

        Raises:
            PinRejectedError: this PIN file was refused before; nothing was tried.
            SettingsError: as :meth:`read`.
            TokenUnavailableError: another process is at its login for very long.
        """
        with self.no_login_elsewhere():
            pin, identity = self._read()
            cut_off = self._cut_off(identity)
            if self._marked() == f"{identity} {_REFUSED}" or cut_off >= CUT_OFF_MAX:
                raise PinRejectedError(
                    f"the token refused the PIN in {self.path} before, or did not answer to it; "
                    "no login was tried",
                    hint=f"write the right PIN into {self.path}; a changed file gets one more try",
                )
            # Should this process be killed inside, the refusal would be known to nobody.
            self._mark(f"{identity} {cut_off + 1}")
            outcome = ""
            try:
                yield pin
            except PinRejectedError:
                outcome = f"{identity} {_REFUSED}"
                raise
            finally:
                self._mark(outcome)

    def was_refused(self) -> bool:
        """Tell whether the token has refused the PIN that the file holds now."""
        try:
            identity = _identity(self.path.stat())
        except OSError:
            return False
        return self._marked() == f"{identity} {_REFUSED}" or self._cut_off(identity) >= CUT_OFF_MAX

    def _read(self) -> tuple[str, str]:
        """Return the PIN, and what tells its file from another one."""
        try:
            with self.path.open(encoding="utf-8") as file:
                status, pin = os.fstat(file.fileno()), file.read().strip()
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
        return pin, _identity(status)

    @contextmanager
    def no_login_elsewhere(self) -> Iterator[None]:
        """Keep all other processes from logging in meanwhile.

        Raises:
            TokenUnavailableError: one of them has been at it for too long.
            SettingsError: the lock file cannot be used.
        """
        lock = self.marker.with_suffix(".lock")
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(lock, within_seconds=LOGIN_SECONDS_MAX))
            except TimeoutError:
                raise TokenUnavailableError(
                    "another process has been logging in to the token for "
                    f"{LOGIN_SECONDS_MAX:.0f} seconds",
                    hint="check the HSM",
                ) from None
            except OSError as error:
                raise SettingsError(
                    f"the lock file {lock} cannot be opened: {error.strerror}",
                    hint="let this process write there; no login was tried",
                ) from None
            yield

    def _cut_off(self, identity: str) -> int:
        """Return how many logins with this file have begun and never ended."""
        known, _, count = self._marked().rpartition(" ")
        return int(count) if known == identity and count.isdecimal() else 0

    def _marked(self) -> str:
        try:
            return self.marker.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            # One that cannot be read cannot be written either, which is told before a login.
            return ""

    def _mark(self, text: str) -> None:
        """Write into the room that the marker has, or make it at the first time."""
        try:
            with self.marker.open("r+b" if self.marker.exists() else "wb") as marker:
                marker.write(text.encode().ljust(_MARKER_BYTES))
        except OSError as error:
            raise SettingsError(
                f"a refused PIN could not be remembered in {self.marker}: {error.strerror}",
                hint="make room, or let this process write there; no login was tried",
            ) from None


def _identity(status: os.stat_result) -> str:
    # Facts about the file rather than a hash of the PIN, which would be a quick way to
    # guess a short PIN.
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
