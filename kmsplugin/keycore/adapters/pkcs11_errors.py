"""Translates python-pkcs11's exceptions into the core's, at one border."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pkcs11 import exceptions as p11

from keycore.errors import (
    KeyplaneError,
    PinRejectedError,
    TokenSetupError,
    TokenUnavailableError,
)

PIN_REFUSED = (
    p11.PinIncorrect,
    p11.PinInvalid,
    p11.PinLenRange,
    p11.PinLocked,
    p11.PinExpired,
)
"""A login must not be repeated with the same PIN after any of these: tokens lock."""

_SETUP_FAULTS = (
    p11.MechanismInvalid,
    p11.MechanismParamInvalid,
    p11.FunctionNotSupported,
    p11.UserPinNotInitialized,
    p11.TokenWriteProtected,
)

REJECTED_ON_DECRYPT = (
    p11.EncryptedDataInvalid,
    p11.EncryptedDataLenRange,
    p11.DataInvalid,
    p11.DataLenRange,
)
"""Codes that can only mean the ciphertext; SoftHSM uses none of them for a bad tag."""


@contextmanager
def pkcs11_errors(action: str) -> Iterator[None]:
    """Run calls of the module and map what they raise.

    Args:
        action: what was being done, for the message: ``"sign a record"``.

    Raises:
        PinRejectedError: the token refused the PIN.
        TokenSetupError: the token lacks something that no retry brings.
        TokenUnavailableError: everything else, codes unknown to python-pkcs11 too.
    """
    try:
        yield
    except p11.PKCS11Error as error:
        raise domain_error(error, action) from error


def domain_error(error: p11.PKCS11Error, action: str) -> KeyplaneError:
    """Return what :func:`pkcs11_errors` raises for an error of the module."""
    if isinstance(error, PIN_REFUSED):
        return PinRejectedError(
            f"the token refused the PIN ({_name(error)})",
            hint="put the right PIN into the PIN file; no login is tried before it changes",
        )
    if isinstance(error, _SETUP_FAULTS):
        return TokenSetupError(
            f"the token cannot {action} ({_name(error)})",
            hint="see docs/hsm.md for the mechanisms that a token must offer",
        )
    return TokenUnavailableError(
        f"the token could not {action} ({_name(error)})",
        hint="check that the HSM is connected and its token present",
    )


def _name(error: p11.PKCS11Error) -> str:
    # Unmapped codes arrive as the bare base class with the code in the text.
    return str(error) if type(error) is p11.PKCS11Error else type(error).__name__
