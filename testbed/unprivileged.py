"""Servers that refuse to run as root, and the processes that a server starts.

Root's tests run such a server as ``nobody``, with the one capability that lets it reach its
data in a directory that only root may enter. Everybody else runs it as themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NOBODY: Final = 65534
_AS_NOBODY: Final = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--no-new-privs",
    # A change of the user clears what the process inherited of this.
    "--pdeathsig=KILL",
    "--",
)


def unprivileged() -> Sequence[str]:
    """Tell what to put before a command so that it does not run as root."""
    return _AS_NOBODY if os.geteuid() == 0 else ()


def make_directory(path: Path) -> None:
    """Make a directory that belongs to whom :func:`unprivileged` runs commands as."""
    path.mkdir(parents=True, mode=0o700)
    give_away(path)


def give_away(path: Path) -> None:
    """Give a file or directory to whom :func:`unprivileged` runs commands as."""
    if os.geteuid() == 0:
        shutil.chown(path, _NOBODY, _NOBODY)


def write_secret(file: Path, secret: str) -> None:
    """Write a line of ASCII that only we may read; the directory is made when missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{secret}\n", encoding="ascii")


def children_of(process: int) -> list[int]:
    """Tell the processes that the first thread of a running process has started."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def is_alive(process: int) -> bool:
    """Tell whether it can still do anything; a dead one may wait for its parent's notice."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    state = status.rpartition(")")[2].split()[0]
    return state not in {"Z", "X"}
