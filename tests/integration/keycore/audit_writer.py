"""A process that writes audit lines until it is killed; it says when it has begun.

Arguments: the state directory, the file size, and how many threads write.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import open_audit, open_token, store_place
from keycore.service.caller import Auditor, Caller
from keycore.settings import AuditSettings, Settings

_PAUSE_SECONDS = 0.0005


def main(state_dir: Path, file_bytes: int, threads: int) -> None:
    """Write for ever."""
    settings = Settings(state_dir=state_dir, audit=AuditSettings(file_bytes=file_bytes))
    token = open_token(settings)
    store = SqlStore.open(store_place(settings))
    auditor = Auditor(open_audit(settings, "rest", token, store), SystemClock())

    never = threading.Event()

    def write() -> None:
        number = 0
        while True:
            number += 1
            with auditor.decision(Caller("rest", "writer"), "key.get", number=number):
                pass
            # Without a pause the tests would read hundreds of thousands of lines.
            never.wait(_PAUSE_SECONDS)

    for _ in range(threads):
        threading.Thread(target=write, daemon=True).start()
    sys.stdout.write("writing\n")
    sys.stdout.flush()
    never.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
