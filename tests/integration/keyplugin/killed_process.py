"""``keyplane`` as a process that is killed at its n-th step with the socket.

Started by ``test_takeover.py`` as ``killed_process.py N DIRECTORY ARGUMENT…``. A step is
the moment before a lock is taken or given back, and before a file is opened, linked,
renamed or removed, in the socket's directory; and the moment after a file was renamed.
Between two steps the rest happens: the token is opened, the key proved, the socket
bound, the server started.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from keycli.main import main

_RENAMED = "keyplane.renamed"

_STEPS = {"open", "fcntl.flock", "os.link", "os.rename", "os.remove", _RENAMED}


def kill_at(step: int, directory: str) -> None:
    """Count the steps from now on, and end at one of them without a chance to clean up."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _STEPS and _concerns(arguments[0], directory):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    rename = os.rename

    def renamed(source: Any, target: Any) -> None:
        rename(source, target)
        sys.audit(_RENAMED, target)

    os.rename = renamed


def _concerns(argument: object, directory: str) -> bool:
    if isinstance(argument, int):
        try:
            argument = Path(f"/proc/self/fd/{argument}").readlink()
        except OSError:
            return False
    return str(argument).startswith(f"{directory}/")


if __name__ == "__main__":
    kill_at(int(sys.argv[1]), sys.argv[2])
    sys.exit(main(sys.argv[3:]))
