"""Begins with one SoftHSM2 token again and again, as many processes that start would.

Usage: login_hammer.py STATE_DIR TIMES. Started by ``test_token_starts.py``, several at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.softhsm import use_embedded_softhsm
from keycore.bootstrap import pin_file
from keycore.settings import Settings


def main() -> None:
    settings = Settings(state_dir=Path(sys.argv[1]))
    use_embedded_softhsm(settings.state_dir)
    module = Pkcs11Module(settings.module)
    for _ in range(int(sys.argv[2])):
        module.reinitialise()
        Connection(module, TokenPlace("keyplane", None), pin_file(settings)).close()


if __name__ == "__main__":
    main()
