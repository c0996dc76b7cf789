"""The embedded token: a SoftHSM2 token directory inside the state directory."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pkcs11 import PKCS11Error, Slot, Token, TokenFlag

from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.errors import TokenSetupError, TokenUnavailableError

_LABEL_BYTES = 32
"""CK_TOKEN_INFO.label has a fixed length, padded with blanks (PKCS#11 v3.0, 5.5)."""

_CONFIGURATION = """\
# Written by keyplane; it may be edited, but the token directory is always set anew.
directories.tokendir =
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def use_embedded_softhsm(state_dir: Path) -> None:
    """Point SoftHSM2 at the state directory; call it before the module is loaded.

    SoftHSM2 takes the path of its configuration from the environment only
    (``softhsm2.conf(5)``), and child processes inherit it.
    """
    _configure(state_dir / "softhsm2.conf", token_directory(state_dir))


def use_copied_configuration(state_dir: Path, directory: Path) -> None:
    """Do the same with a configuration in another directory; the state directory stays as it is."""
    copy = directory / "softhsm2.conf"
    with suppress(FileNotFoundError):
        shutil.copyfile(state_dir / "softhsm2.conf", copy)
    _configure(copy, token_directory(state_dir))


def token_directory(state_dir: Path) -> Path:
    """Return where the embedded token lies; the directory appears when it is whole."""
    return state_dir / "tokens"


@contextmanager
def staged_token(state_dir: Path) -> Iterator[None]:
    """Let SoftHSM2 make a token aside, and show it at once when the block has ended well.

    SoftHSM2 writes a token attribute by attribute and stumbles over one that is not
    whole. What an interrupted run has left aside is thrown away, since nothing was
    encrypted with it yet. The module must be finalised inside the block.
    """
    staging, configuration = state_dir / "tokens.new", state_dir / "softhsm2.new.conf"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    _configure(configuration, staging)
    yield
    for path in (*staging.rglob("*"), staging):
        _write_through(path)
    staging.rename(token_directory(state_dir))
    _write_through(state_dir)
    configuration.unlink()


def initialise_token(module: Pkcs11Module, label: str, so_pin: str, user_pin: str) -> None:
    """Make a token with its user PIN in the first free slot.

    The slot list is read at initialisation, so the module is initialised again.

    Raises:
        TokenSetupError: SoftHSM2 offers no slot.
        TokenUnavailableError: it does not answer.
    """
    token = _make_token(module, label, so_pin)
    with module.guard, pkcs11_errors("set the user PIN"):
        session = token.open(rw=True, so_pin=so_pin)
        session.init_pin(user_pin)
        session.close()
        module.library.reinitialize()


def _configure(path: Path, tokens: Path) -> None:
    """Write the configuration, or correct the one that was moved with its directory."""
    line = f"directories.tokendir = {tokens}"
    old = path.read_text(encoding="utf-8") if path.exists() else _CONFIGURATION
    new = re.sub(r"(?m)^directories\.tokendir.*$", lambda _: line, old)
    if new != old:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(new, encoding="utf-8")
        temporary.rename(path)
    os.environ["SOFTHSM2_CONF"] = str(path)


def _write_through(path: Path) -> None:
    """Make a file or directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
