"""A process that uses a token through python-pkcs11, one operation for each line it reads.

Usage: token_user.py MODULE LABEL PIN_FILE. It answers each line with ``ok``, or with the
name of what the module raised.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pkcs11

THREADS = 4

_CKR_FUNCTION_NOT_PARALLEL = 0x51

_TEXT = b"a text of sixteen and some more bytes"


def main() -> None:
    """Open a session, make a key, and do as told until standard input ends."""
    module, label, pin_file = sys.argv[1:]
    token = pkcs11.lib(module).get_token(token_label=label)
    session = token.open(user_pin=Path(pin_file).read_text(encoding="utf-8").strip())
    key = session.generate_key(pkcs11.KeyType.AES, 256, store=False)
    library = ctypes.CDLL(module)
    iv = bytes(16)

    def encrypt() -> None:
        closed = key.encrypt(_TEXT, mechanism_param=iv)
        assert key.decrypt(closed, mechanism_param=iv) == _TEXT

    def ask_status(_: int) -> None:
        # The one function that threads may call without any care.
        assert library.C_GetFunctionStatus(ctypes.c_ulong(1)) == _CKR_FUNCTION_NOT_PARALLEL

    def crowd() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(ask_status, range(THREADS)))

    operations: dict[str, Callable[[], object]] = {
        "encrypt": encrypt,
        "crowd": crowd,
        "random": lambda: session.generate_random(8),
        "reopen": lambda: token.open().close(),
    }
    for line in sys.stdin:
        print(_outcome(operations[line.strip()]), flush=True)  # noqa: T201


def _outcome(operation: Callable[[], object]) -> str:
    try:
        operation()
    except pkcs11.PKCS11Error as error:
        return type(error).__name__
    return "ok"


if __name__ == "__main__":
    main()
