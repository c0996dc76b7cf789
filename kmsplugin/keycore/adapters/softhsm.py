"""The embedded token: a SoftHSM2 token directory inside the state directory."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from pkcs11 import PKCS11Error, Slot, Token, TokenFlag

from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.errors import TokenSetupError, TokenUnavailableError

_LABEL_BYTES = 32
"""CK_TOKEN_INFO.label has a fixed length, padded with blanks (PKCS#11 v3.0, 5.5)."""

_CONFIGURATION = """\
# Written by keyplane; kept when it exists, so it may be edited.
directories.tokendir = {directory}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def use_embedded_softhsm(state_dir: Path) -> None:
    """Point SoftHSM2 at the state directory; call it before the module is loaded.

    SoftHSM2 takes the path of its configuration from the environment only
    (``softhsm2.conf(5)``), and child processes inherit it.
    """
    configuration = state_dir / "softhsm2.conf"
    if not configuration.exists():
        _write_configuration(configuration, _tokens(state_dir))
    _tokens(state_dir).mkdir(mode=0o700, exist_ok=True)
    os.environ["SOFTHSM2_CONF"] = str(configuration)


def make_embedded_token(
    module_path: Path, state_dir: Path, label: str, so_pin: str, user_pin: str
) -> None:
    """Make the token with its user PIN unless there is one; safe to interrupt.

    SoftHSM2 writes a token file by file, and stumbles over one that is not whole. So
    it is made in a directory of its own and shown at once by a rename; what an
    interrupted run has left is thrown away, since nothing was encrypted with it yet.

    Raises:
        TokenSetupError: SoftHSM2 is not installed or cannot make a token.
        TokenUnavailableError: it does not answer.
    """
    if _tokens(state_dir).is_dir() and any(_tokens(state_dir).iterdir()):
        return
    staging, configuration = state_dir / "tokens.new", state_dir / "softhsm2.new.conf"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    _write_configuration(configuration, staging)
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    module = Pkcs11Module(module_path)
    token = _make_token(module, label, so_pin)
    with module.guard, pkcs11_errors("set the user PIN"):
        session = token.open(rw=True, so_pin=so_pin)
        session.init_pin(user_pin)
        session.close()
        module.library.finalize()
    staging.rename(_tokens(state_dir))
    configuration.unlink()


def _tokens(state_dir: Path) -> Path:
    return state_dir / "tokens"


def _write_configuration(path: Path, tokens: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(_CONFIGURATION.format(directory=tokens), encoding="utf-8")
    temporary.rename(path)


def _make_token(module: Pkcs11Module, label: str, so_pin: str) -> Token:
    with module.guard, pkcs11_errors("list its slots"):
        slot = next((slot for slot in module.library.get_slots() if _is_free(slot)), None)
    if slot is None:
        raise TokenSetupError("SoftHSM2 offers no free slot for a new token")
    with module.guard:
        _init_token(module.path, slot.slot_id, label, so_pin)
    with module.guard, pkcs11_errors("find the new token"):
        made: Token = slot.get_token()
        return made


def _is_free(slot: Slot) -> bool:
    try:
        return TokenFlag.TOKEN_INITIALIZED not in slot.get_token().flags
    except PKCS11Error:
        return False


def _init_token(module_path: Path, slot_id: int, label: str, so_pin: str) -> None:
    """Call ``C_InitToken`` (PKCS#11 v3.0, 5.5), which python-pkcs11 does not offer.

    ``softhsm2-util`` could do it too, but takes PINs as arguments, which every
    user of the machine can read.
    """
    library = ctypes.CDLL(str(module_path))
    pin = so_pin.encode()
    padded = label.encode().ljust(_LABEL_BYTES)
    result = library.C_InitToken(
        ctypes.c_ulong(slot_id), ctypes.c_char_p(pin), ctypes.c_ulong(len(pin)), padded
    )
    if result != 0:
        raise TokenUnavailableError(f"SoftHSM2 could not make the token (code {result:#x})")
