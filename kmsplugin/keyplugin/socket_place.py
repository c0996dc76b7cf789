"""Looks at a socket from outside: who may open it, who may replace it, who serves it.

Nothing is made or changed. What is good is judged by :mod:`keyplugin.prober` for any
provider, and by :mod:`keyplugin.socket_checks` for the one of this node.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keycore.diagnosis.findings import Verdict, fault, ok, warning

_PATH_BYTES_MAX: Final = 107
"""``sun_path`` has 108 bytes with the zero at the end (``unix(7)``)."""

_CONNECT_SECONDS: Final = 2.0

_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid (``unix(7)``, SO_PEERCRED)."""


@dataclass(frozen=True, slots=True)
class Server:
    """The process that listens.

    Attributes:
        pid: 0 when it is in another PID namespace, such as a container's.
        program: its name; empty when it cannot be seen.
    """

    pid: int
    uid: int
    program: str

    def __str__(self) -> str:
        """Return it in words."""
        number = f"process {self.pid}" if self.pid else "a process of another container"
        named = f" ({self.program})" if self.program else ""
        return f"{number}{named} of {user_name(self.uid)}"


def server_of(path: Path) -> Server | None:
    """Return who listens at ``path``; ``None`` when nobody does.

    Raises:
        OSError: there is something, and it cannot be connected to.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Server(pid, uid, _program(pid))


def judged_path(path: Path) -> list[Verdict]:
    """Say what is wrong with the path itself; nothing when all is well."""
    if str(path).startswith(("@", "\0")):
        return [
            fault(
                "it is an abstract socket, which everybody on the machine may open",
                "whoever opens the socket can decrypt; only a path in a directory has a mode",
            )
        ]
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        return [fault(f"the path is longer than {_PATH_BYTES_MAX} bytes", "unix(7) has no room")]
    return []


def judged_directory(path: Path) -> Verdict:
    """Say who may put another socket into the place of the one at ``path``."""
    directory = path.parent
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    about = f"{directory} (mode {mode:04o}, {user_name(status.st_uid)})"
    owners = {0, os.geteuid()}
    with suppress(OSError):
        owners.add(path.lstat().st_uid)
    if status.st_uid not in owners:
        return fault(
            f"{about} belongs to somebody else, who may replace the socket",
            f"chown root {directory}: whoever replaces the socket is sent new seeds",
        )
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return fault(
            f"everybody may replace the socket in {about}",
            f"chmod o-w {directory}: whoever replaces the socket is sent new seeds",
        )
    if mode & stat.S_IWGRP and status.st_gid != 0 and not mode & stat.S_ISVTX:
        return warning(
            f"the group {group_name(status.st_gid)} may replace the socket in {about}",
            f"chmod g-w {directory}: whoever replaces the socket is sent new seeds",
        )
    return ok(f"{about}: nobody else may replace the socket")


def judged_file(path: Path) -> Verdict:
    """Say who may open the socket at ``path``, which exists."""
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return warning(
            f"{path} is a link to {path.resolve()}",
            "whoever may change the link decides who is sent new seeds",
        )
    if not stat.S_ISSOCK(status.st_mode):
        return fault(f"{path} is not a socket", "remove it, and start the provider")
    owner = f"{user_name(status.st_uid)}, group {group_name(status.st_gid)}, mode {mode:04o}"
    if mode & (stat.S_IWOTH) and not _is_shielded(path):
        return fault(
            f"everybody may open the socket ({owner})",
            f"chmod o-rwx {path}: whoever opens the socket can decrypt",
        )
    return ok(owner)


def user_name(uid: int) -> str:
    """Return a user's name, or ``uid 1234``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_name(gid: int) -> str:
    """Return a group's name, or ``gid 1234``."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def _is_shielded(path: Path) -> bool:
    """Tell whether the directory keeps everybody else from reaching the socket."""
    return not path.parent.stat().st_mode & stat.S_IXOTH


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
