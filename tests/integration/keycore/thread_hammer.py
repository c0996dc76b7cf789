"""Works on one SoftHSM2 token from several threads, with or without the guard.

Usage: thread_hammer.py STATE_DIR guarded|unguarded|parallel SECONDS. Started by
``test_thread_safety.py`` in a process of its own, because without the guard the
process dies.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.softhsm import use_embedded_softhsm
from keycore.bootstrap import pin_file
from keycore.domain.ids import VersionId, new_uuid
from keycore.ports import WrappedKey
from keycore.settings import Settings

THREADS = 8


def main() -> None:
    settings = Settings(state_dir=Path(sys.argv[1]))
    mode = sys.argv[2]
    use_embedded_softhsm(settings.state_dir)
    module = Pkcs11Module(
        settings.module,
        parallel=mode == "parallel",
        guard=contextlib.nullcontext() if mode == "unguarded" else None,
    )
    connection = Connection(module, TokenPlace("keyplane", None), pin_file(settings))
    connection.identify("auto")
    token = Pkcs11Token(
        connection, parallelism=1 if mode == "guarded" else THREADS, handles_max=5 * THREADS
    )
    end = time.monotonic() + float(sys.argv[3])
    faults: list[Exception] = []

    def round_trip() -> None:
        key = WrappedKey(VersionId(new_uuid()), token.generate_key())
        body = token.encrypt(key, b"x" * 32, b"aad")
        assert token.decrypt(key, body, b"aad") == b"x" * 32
        token.sign(body)

    def work() -> None:
        while time.monotonic() < end:
            try:
                round_trip()
            except Exception as error:  # noqa: BLE001  (a fault must not end the hammering)
                faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fault in faults[:5]:
        sys.stderr.write(f"{fault!r} {fault.__cause__!r}\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
