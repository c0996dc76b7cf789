"""Loads a PKCS#11 module, finds the token in it and logs in, once for the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import Mechanism

from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_attributes import UnwrapTemplateMapper
from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.errors import TokenSetupError

Guard = AbstractContextManager[object]

PROCESS_GUARD: Final[Guard] = threading.RLock()
"""Held around *every* call of the module. python-pkcs11 initialises modules without
locking and releases the GIL around C calls, so SoftHSM corrupts its memory and the
process dies when two threads are inside at once; a test shows it."""

REQUIRED_MECHANISMS: Final = (
    Mechanism.AES_KEY_GEN,
    Mechanism.AES_GCM,
    Mechanism.AES_KEY_WRAP_PAD,
    Mechanism.GENERIC_SECRET_KEY_GEN,
    Mechanism.SHA256_HMAC,
)


class Pkcs11Module:
    """A loaded module. Load it after forking, never before (PKCS#11 v3.0, 5.4)."""

    def __init__(self, path: Path, *, guard: Guard = PROCESS_GUARD) -> None:
        """Load the shared library and initialise it.

        Raises:
            TokenSetupError: the file is missing or is no PKCS#11 module.
            TokenUnavailableError: the module does not initialise.
        """
        self.path = path
        self.guard = guard
        if not path.is_file():
            raise TokenSetupError(
                f"the PKCS#11 module {path} does not exist",
                hint="install it (SoftHSM2: apt-get install softhsm2) or correct token.module",
            )
        with guard, pkcs11_errors("initialise its module"):
            self.library = _load(path)

    def tokens(self) -> list[pkcs11.Token]:
        """Return every initialised token that is present.

        Raises:
            TokenUnavailableError: the module does not answer.
        """
        with self.guard, pkcs11_errors("list its tokens"):
            return list(self.library.get_tokens())

    def token(self, label: str, serial: str | None) -> pkcs11.Token:
        """Return the token with that label, and serial number when one is given.

        Raises:
            TokenSetupError: there is none, or more than one, or it lacks a mechanism.
            TokenUnavailableError: the module does not answer.
        """
        present = self.tokens()
        found = [
            token
            for token in present
            if token.label == label and serial in (None, serial_of(token))
        ]
        wanted = f"{label!r}" + (f" with serial {serial}" if serial else "")
        if not found:
            labels = ", ".join(sorted(repr(t.label) for t in present)) or "none"
            raise TokenSetupError(
                f"there is no token {wanted} in {self.path} (present: {labels})",
                hint="connect the HSM, or correct token.label and token.serial",
            )
        if len(found) > 1:
            raise TokenSetupError(
                f"there are {len(found)} tokens {wanted} in {self.path}",
                hint="tell them apart by token.serial",
            )
        self._require(found[0], REQUIRED_MECHANISMS)
        return found[0]

    def login(self, token: pkcs11.Token, pin_file: PinFile, *, writable: bool) -> pkcs11.Session:
        """Open the one session of this process, logged in as user.

        It must never be closed while others work: closing it logs the token out.

        Raises:
            PinRejectedError: the PIN is wrong, now or before.
            SettingsError: the PIN file cannot be used.
            TokenUnavailableError: the token does not answer.
        """
        with pin_file.login() as pin, self.guard, pkcs11_errors("log in"):
            return token.open(rw=writable, user_pin=pin, attribute_mapper=UnwrapTemplateMapper())

    def _require(self, token: pkcs11.Token, mechanisms: Sequence[Mechanism]) -> None:
        with self.guard, pkcs11_errors("list its mechanisms"):
            offered = token.slot.get_mechanisms()
        missing = [m.name for m in mechanisms if m not in offered]
        if missing:
            raise TokenSetupError(
                f"the token {token.label!r} lacks the mechanisms {', '.join(missing)}",
                hint="enable them in the HSM's policy or configuration, or use another token",
            )


def serial_of(token: pkcs11.Token) -> str:
    """Return a token's serial number as text, without padding."""
    return token.serial.decode("ascii", "replace").strip()


def _load(path: Path) -> Any:
    try:
        return pkcs11.lib(str(path))
    except pkcs11.PKCS11Error as error:
        # What the module itself answers has a class of its own; the bare one comes
        # from the loader, which met no module.
        if type(error) is not pkcs11.PKCS11Error:
            raise
        raise TokenSetupError(
            f"{path} is not a PKCS#11 module that can be loaded", hint="correct token.module"
        ) from error
