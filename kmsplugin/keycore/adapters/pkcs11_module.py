"""Loads a PKCS#11 module, once for the process, and finds tokens in it."""

from __future__ import annotations

import ctypes
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import pkcs11

from keycore.adapters.pkcs11_descriptors import closed_numbers_are_held
from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.errors import TokenSetupError, TokenUnavailableError

Guard = AbstractContextManager[object]

PROCESS_GUARD: Final[Guard] = threading.RLock()
"""Held around *every* call of a module that was initialised without locking, as
python-pkcs11 does it. It releases the GIL around C calls, so SoftHSM corrupts its memory
and the process dies when two threads are inside at once; a test shows it."""

_CKF_OS_LOCKING_OK: Final = 2

_CKR_CRYPTOKI_ALREADY_INITIALIZED: Final = 0x191


class Pkcs11Module:
    """A loaded module. Load it after forking, never before (PKCS#11 v3.0, 5.4)."""

    def __init__(self, path: Path, *, parallel: bool = False, guard: Guard | None = None) -> None:
        """Load the shared library and initialise it.

        Args:
            path: the shared library.
            parallel: several threads may be inside at once; the module locks by itself.
            guard: held around every call; default the process's, or none if ``parallel``.

        Raises:
            TokenSetupError: the file is missing or is no PKCS#11 module.
            TokenUnavailableError: the module does not initialise.
        """
        self.path = path
        self.guard = guard or (nullcontext() if parallel else PROCESS_GUARD)
        self._parallel = parallel
        if not path.is_file():
            raise TokenSetupError(
                f"the PKCS#11 module {path} does not exist",
                hint="install it (SoftHSM2: apt-get install softhsm2) or correct token.module",
            )
        with self.guard, pkcs11_errors("initialise its module"):
            self.library = _load(path)
            if parallel:
                _initialise_again(path, locks=True)

    def reinitialise(self) -> None:
        """Initialise the module anew; every session and object of the process is lost by it.

        Whatever was kept of them must not be used afterwards: handles are given out
        again, and an old one could mean another key.

        Raises:
            TokenUnavailableError: the module does not initialise; try again later.
        """
        # NB: not by python-pkcs11, which takes a module for finalised that has refused to be.
        with self.guard:
            _initialise_again(self.path, locks=self._parallel)

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
            TokenSetupError: there is none, or more than one.
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
        return found[0]


def finalise(path: Path) -> None:
    """Finalise a loaded module in this process; every session of the process is lost by it.

    One that is not initialised stays as it is.

    Args:
        path: the shared library.
    """
    with closed_numbers_are_held():
        ctypes.CDLL(str(path)).C_Finalize(None)


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


class _InitialiseArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS#11 v3.0, 5.4)."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


def _initialise_again(path: Path, *, locks: bool) -> None:
    """Finalise and initialise the module that python-pkcs11 has loaded.

    Loading a library again only counts, so this is the same one.

    Args:
        path: the shared library.
        locks: whether the module shall use the system's locks, which python-pkcs11 has
            no option for.
    """
    library = ctypes.CDLL(str(path))
    arguments = _InitialiseArguments(flags=_CKF_OS_LOCKING_OK)
    given = ctypes.byref(arguments) if locks else None
    finalise(path)
    result = library.C_Initialize(given)
    if result == _CKR_CRYPTOKI_ALREADY_INITIALIZED:
        finalise(path)
        result = library.C_Initialize(given)
    if result != 0:
        raise TokenUnavailableError(f"the module does not initialise (code {result:#x})")
